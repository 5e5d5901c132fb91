"""What speaks HTTP: every way to ask leads to the one engine.

::

    front ── BentoML's probes and static files, or:
    └── app ── the routes
         ├── predict, batch, classify, v2 ── answering, uploads, forms, bodies, limits
         ├── card, pages, openapi
         └── problems ── what is answered where there is no answer
"""
