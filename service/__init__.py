"""The BentoML service that answers from one bundle.

::

    launch ──starts──▶ main (BentoML's worker process)
                        ├── observe ── metrics, logs, traces: around all that follows
                        └── faces ── a module for each way to ask
                             └── inference ── engine, scheduler

``main`` holds the service class, ``launch`` starts and supervises its process, ``channel`` is the
line between the two. Nothing here imports torch: with the ONNX backend the service runs without it.
"""
