"""The OpenAPI document: written down, because it is a promise and not a by-product."""

from __future__ import annotations

from service.faces.openapi.document import PATHS, document

__all__ = ["PATHS", "document"]
