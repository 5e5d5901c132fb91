"""What the ASGI scope of a request says of it, and who says what there."""

from __future__ import annotations

from starlette.types import Scope

CLIENT = "tlserve.client"
"""In the scope: who asks, the name of the API key, or the address."""
DRAINING = "tlserve.draining"
"""In the scope's ``state``, if the service is about to end."""
ENDED = "tlserve.ended"
"""Likewise: the status that the connection answered with, as no body came that could be read."""

CLIENT_CLOSED = 499
"""The status that nginx and others count where the client left before there was an answer."""


def client_of(scope: Scope) -> str:
    """Name who asks; all whom nobody has named are one client."""
    client: str = scope.get(CLIENT, "")
    return client


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
