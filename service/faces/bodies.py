"""Reading a body, never more of it than is allowed, and not for ever."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.requests import ClientDisconnect, Request

from service.faces import problems
from service.faces.problems import Problem
from service.headers import header_of

_READ_SECONDS = 30.0


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
        Problem: It is too large, or too slow.
    """
    _check_declared(request, limit, too_large)
    chunks = []
    received = 0
    try:
        async with asyncio.timeout(_READ_SECONDS):
            # Not `request.stream()`: most bodies come whole, and need no generator.
            while True:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                chunk: bytes = message.get("body", b"")
                received += len(chunk)
                if received > limit:
                    raise too_large
                chunks.append(chunk)
                if not message.get("more_body", False):
                    break
    except TimeoutError:
        raise _slow() from None
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


@asynccontextmanager
async def limited(
    request: Request, limit: int, too_large: Problem
) -> AsyncIterator[AsyncIterator[bytes]]:
    """Read a body chunk by chunk.

    Raises:
        Problem: ``too_large`` as soon as it is; or the body did not arrive in time.
    """
    _check_declared(request, limit, too_large)
    try:
        async with asyncio.timeout(_READ_SECONDS):
            yield _limited(request, limit, too_large)
    except TimeoutError:
        raise _slow() from None


def _check_declared(request: Request, limit: int, too_large: Problem) -> None:
    declared = declared_length(request)
    if declared is not None and declared > limit:
        too_large.detail += f" Content-Length says {declared:,} bytes."
        raise too_large


def _slow() -> Problem:
    return Problem(problems.SLOW_BODY, f"The body was not there after {_READ_SECONDS:.0f} seconds.")


async def _limited(request: Request, limit: int, too_large: Problem) -> AsyncIterator[bytes]:
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        if received > limit:
            raise too_large
        yield chunk
