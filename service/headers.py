"""The headers of a request, as they came."""

from __future__ import annotations

from starlette.types import Scope


def header_of(scope: Scope, name: bytes) -> bytes | None:
    """Find a header; the first, if it came several times.

    Starlette's mapping of headers does the same, with an object, a change of type and, where there
    is none, an exception for each; several are looked up for every request.

    Args:
        scope: Of the request; see the ASGI specification.
        name: In small letters.
    """
    for key, value in scope["headers"]:
        if key == name:
            found: bytes = value
            return found
    return None
