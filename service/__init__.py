"""The BentoML service that answers from one bundle.

::

    launch ── supervisor ──starts──▶ worker (uvicorn, with connections that end)
                                      └── main (BentoML's application, behind the guard)
                                           └── faces ── inference

``main`` holds the service class, ``channel`` is the line between supervisor and worker. Nothing
here imports torch: with the ONNX backend the service runs without it.
"""
