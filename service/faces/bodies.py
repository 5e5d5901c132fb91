"""Reading a body, never more of it than is allowed.

How long it may take is the connection's business: see :mod:`service.guard.protocol`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from starlette.requests import ClientDisconnect, Request

from service.faces import problems
from service.faces.problems import Problem
from service.scope import header_of


def must_be_plain(request: Request) -> None:
    """Refuse a compressed body: how large it becomes is not known before it is unpacked.

    Raises:
        Problem: It is compressed.
    """
    given = header_of(request.scope, b"content-encoding")
    if given is None:
        return
    encoding = given.decode("latin-1").strip().lower()
    if encoding != "identity":
        raise Problem(
            problems.UNSUPPORTED_TYPE,
            f"Content-Encoding {encoding!r} is not accepted.",
            hint="Send the image file as it is; its format compresses already.",
        )


def declared_length(request: Request) -> int | None:
    """Read the body's length from its header; ``None`` where it comes in chunks."""
    length = header_of(request.scope, b"content-length") or b""
    return int(length) if length.isdigit() and len(length) < 20 else None


async def body_of(request: Request, limit: int, too_large: Problem) -> bytes:
    """Read a whole body.

    Raises:
        Problem: It is too large.
    """
    _check_declared(request, limit, too_large)
    chunks = []
    received = 0
    more = True
    # Not `request.stream()`: most bodies come whole, and need no generator.
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk: bytes = message.get("body", b"")
        received += len(chunk)
        if received > limit:
            raise too_large
        chunks.append(chunk)
        more = message.get("more_body", False)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def limited(request: Request, limit: int, too_large: Problem) -> AsyncIterator[bytes]:
    """Read a body chunk by chunk.

    Raises:
        Problem: ``too_large``, at once or as soon as it is.
    """
    _check_declared(request, limit, too_large)
    return _limited(request, limit, too_large)


def _check_declared(request: Request, limit: int, too_large: Problem) -> None:
    declared = declared_length(request)
    if declared is not None and declared > limit:
        too_large.detail += f" Content-Length says {declared:,} bytes."
        raise too_large


async def _limited(request: Request, limit: int, too_large: Problem) -> AsyncIterator[bytes]:
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        if received > limit:
            raise too_large
        yield chunk
