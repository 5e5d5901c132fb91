"""The BentoML service that answers from one bundle.

::

    launch ── supervisor ──starts──▶ worker (uvicorn, with connections that end)
                                      └── main (BentoML's application)
                                           ├── observe ── metrics, logs, traces: around all others
                                           ├── guard ── who may ask, how often
                                           └── faces ── a module for each way to ask
                                                └── inference ── engine, scheduler

``main`` holds the service class, ``channel`` is the line between supervisor and worker. Nothing
here imports torch: with the ONNX backend the service runs without it.
"""
