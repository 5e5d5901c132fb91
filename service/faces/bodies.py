"""From a request's body to the bytes of one image, never holding more than is allowed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from service.faces import problems
from service.faces.problems import Problem

FIELD = "image"

_FRAMING_BYTES = 64 * 1024
"""What a multipart body may have beside the image: boundaries and the headers of its part."""

_READ_SECONDS = 30.0


async def image_of(request: Request, max_bytes: int) -> bytes:
    """Read the image that a request brings: its whole body, or the file in its multipart form.

    Raises:
        Problem: There is none, it is too large, or of a type that is not accepted.
    """
    multipart = _is_multipart(request)
    limit = max_bytes + _FRAMING_BYTES if multipart else max_bytes
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > limit:
        raise _too_large(max_bytes, f"Content-Length says {int(length):,} bytes")
    try:
        async with asyncio.timeout(_READ_SECONDS):
            stream = _limited(request, limit, max_bytes)
            data = await _file(request, stream) if multipart else await _all(stream)
    except TimeoutError:
        raise Problem(
            problems.SLOW_BODY, f"The body was not there after {_READ_SECONDS:.0f} seconds."
        ) from None
    if not data:
        raise Problem(
            problems.EMPTY_BODY,
            "The image has 0 bytes.",
            hint=f"Send the file as the body, or as the multipart field {FIELD!r}.",
        )
    if len(data) > max_bytes:
        raise _too_large(max_bytes, f"the image has {len(data):,} bytes")
    return data


def _is_multipart(request: Request) -> bool:
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise Problem(
            problems.UNSUPPORTED_TYPE,
            f"Content-Encoding {encoding!r} is not accepted.",
            hint="Send the image file as it is; its format compresses already.",
        )
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type == "multipart/form-data":
        return True
    if content_type in ("", "application/octet-stream") or content_type.startswith("image/"):
        return False
    raise Problem(
        problems.UNSUPPORTED_TYPE,
        f"Content-Type is {content_type!r}; image/*, application/octet-stream and "
        "multipart/form-data are accepted.",
        hint=f"With curl: -H 'Content-Type: image/jpeg', or -F {FIELD}=@photo.jpg.",
    )


async def _limited(request: Request, limit: int, max_bytes: int) -> AsyncGenerator[bytes, None]:
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        if received > limit:
            raise _too_large(max_bytes, f"more than {limit:,} bytes came")
        yield chunk


async def _all(stream: AsyncGenerator[bytes, None]) -> bytes:
    return b"".join([chunk async for chunk in stream])


class _InMemoryParser(MultiPartParser):
    # The body is limited already: the disk would only make it slower.
    spool_max_size = 2**31


async def _file(request: Request, stream: AsyncGenerator[bytes, None]) -> bytes:
    try:
        form = await _InMemoryParser(request.headers, stream).parse()
    except MultiPartException as error:
        raise Problem(
            problems.MALFORMED_FORM, f"The multipart body cannot be parsed: {error.message}"
        ) from error
    try:
        fields = form.multi_items()
        if [name for name, _ in fields] != [FIELD]:
            came = ", ".join(repr(name) for name, _ in fields) or "no field at all"
            raise Problem(
                problems.INVALID_FORM,
                f"The form must have the field {FIELD!r}, once, and no other; it has {came}.",
                hint=f"With curl: -F {FIELD}=@photo.jpg. Options such as top_k go into the query.",
            )
        upload = fields[0][1]
        if not isinstance(upload, UploadFile):
            raise Problem(
                problems.INVALID_FORM,
                f"The field {FIELD!r} came as a string of {len(upload)} characters, not as a file.",
                hint=f"With curl: -F {FIELD}=@photo.jpg, with the @. URLs are not fetched.",
            )
        return await upload.read()
    finally:
        await form.close()


def _too_large(max_bytes: int, found: str) -> Problem:
    return Problem(
        problems.TOO_MANY_BYTES,
        f"An image may have {max_bytes:,} bytes; {found}.",
        hint="Send a smaller version of it.",
    )
