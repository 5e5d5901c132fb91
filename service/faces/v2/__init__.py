"""The Open Inference Protocol, version 2, over HTTP: what clients of other servers speak.

The model has two inputs, and a request has one of them: ``image``, the bytes of image files, or
``input``, tensors that are preprocessed already. Its outputs are ``probabilities`` and ``label``.
Tensors are JSON, or binary after the JSON: the protocol's binary tensor data extension.
"""

from __future__ import annotations

from service.faces.v2.routes import ROUTES

__all__ = ["ROUTES"]
