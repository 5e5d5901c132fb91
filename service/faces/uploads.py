"""From a request to its images: a body that is one, or the files of a form."""

from __future__ import annotations

from collections.abc import Collection

from starlette.requests import Request

from service.faces import problems
from service.faces.bodies import body_of, limited, must_be_plain
from service.faces.forms import Part, TooManyPartsError, parts_of
from service.faces.limits import Limits
from service.faces.problems import Problem
from service.scope import header_of

FIELD = "image"
FILES_FIELD = "images"

_FRAMING_BYTES = 64 * 1024
"""What a multipart body may have beside its files: boundaries and headers."""

_FRAMING_BYTES_EACH = 1024
"""And so much more for each of many files."""

_FEW_PARTS = 16
"""Enough for an error to name what came in the place of one image."""


async def image_of(request: Request, max_bytes: int) -> bytes:
    """Read the image that a request brings: its whole body, or the file in its multipart form.

    Raises:
        Problem: There is none, it is too large, or of a type that is not accepted.
    """
    if is_form(request):
        data, _ = await image_and_values(request, max_bytes, ())
        return data
    too_large = _too_large(max_bytes)
    data = await body_of(request, max_bytes, too_large)
    return checked_image(data, len(data), max_bytes, f"the multipart field {FIELD!r}")


async def image_and_values(
    request: Request, max_bytes: int, options: Collection[str]
) -> tuple[bytes, dict[str, str]]:
    """Read a form with one image.

    Args:
        request: The request; it is a form.
        max_bytes: The largest image.
        options: The names of the plain values that the form may have, too.

    Raises:
        Problem: There is no image, it is too large, or the form has anything else.
    """
    limit = max_bytes + _FRAMING_BYTES
    stream = limited(request, limit, _too_large(max_bytes))
    try:
        parts = await parts_of(
            request.headers["content-type"], stream, max_part=max_bytes, max_parts=_FEW_PARTS
        )
    except TooManyPartsError:
        raise _wrong_fields(f"more than {_FEW_PARTS} fields", options) from None
    names = [part.name for part in parts]
    if names.count(FIELD) != 1 or len(set(names)) < len(names) or {*names} - {FIELD, *options}:
        raise _wrong_fields(", ".join(map(repr, names)) or "no field at all", options)
    by_name = {part.name: part for part in parts}
    image = by_name.pop(FIELD)
    _must_be_file(image, f"{FIELD}=@photo.jpg")
    values = {name: part.data.decode("utf-8", "replace") for name, part in by_name.items()}
    return checked_image(image.data, image.size, max_bytes, f"the field {FIELD!r}"), values


async def files_of(request: Request, limits: Limits) -> list[Part]:
    """Read a form with many images; whether each is empty or too large is not looked at here.

    Raises:
        Problem: There are none, too many, more bytes than allowed, or any other field.
    """
    if not is_form(request):
        raise Problem(
            problems.UNSUPPORTED_TYPE,
            "Several images come as multipart/form-data.",
            hint=f"With curl: -F {FILES_FIELD}=@a.jpg -F {FILES_FIELD}=@b.jpg.",
        )
    limit = limits.total_bytes + _FRAMING_BYTES + limits.images * _FRAMING_BYTES_EACH
    too_large = Problem(
        problems.TOO_MANY_BYTES,
        f"The images of a request may have {limits.total_bytes:,} bytes together; "
        "this body has more.",
        hint="Send fewer images in a request, or smaller ones.",
    )
    stream = limited(request, limit, too_large)
    try:
        parts = await parts_of(
            request.headers["content-type"],
            stream,
            max_part=limits.image_bytes,
            max_parts=limits.images,
        )
    except TooManyPartsError:
        raise too_many_images(limits.images, "this one has more") from None
    wrong = sorted({part.name for part in parts} - {FILES_FIELD})
    if wrong or not parts:
        raise Problem(
            problems.INVALID_FORM,
            f"The form must have files in the field {FILES_FIELD!r}, and no other field; it has "
            f"{', '.join(map(repr, wrong)) or 'no field at all'}.",
            hint=f"With curl: -F {FILES_FIELD}=@a.jpg -F {FILES_FIELD}=@b.jpg. "
            "Options such as top_k go into the query.",
        )
    for part in parts:
        _must_be_file(part, f"{FILES_FIELD}=@a.jpg")
    return parts


def file_in(part: Part, max_bytes: int) -> bytes:
    """Give the image of one part of a form.

    Raises:
        Problem: It is empty or too large.
    """
    return checked_image(part.data, part.size, max_bytes, f"a file in {FILES_FIELD!r}")


def too_many_images(limit: int, found: str) -> Problem:
    """Say that a request has too many images."""
    return Problem(
        problems.TOO_MANY_IMAGES,
        f"A request may have {limit} images; {found}.",
        hint="Send them in several requests.",
    )


def is_form(request: Request) -> bool:
    """Tell a multipart form from a body that is the image itself.

    Raises:
        Problem: It is neither.
    """
    must_be_plain(request)
    given = header_of(request.scope, b"content-type") or b""
    content_type = given.decode("latin-1").partition(";")[0].strip().lower()
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


def checked_image(data: bytes, size: int, max_bytes: int, where: str = "") -> bytes:
    """Give an image that is neither empty nor too large.

    Args:
        data: Its bytes.
        size: How many there were, if they were too many to keep.
        max_bytes: The most.
        where: The place in the request to put one, but for the body.

    Raises:
        Problem: It is empty or too large.
    """
    if size > max_bytes:
        problem = _too_large(max_bytes)
        problem.detail += f" This one has {size:,}."
        raise problem
    if not size:
        raise Problem(
            problems.EMPTY_BODY,
            "The image has 0 bytes.",
            hint=f"Send the file as the body, or as {where}." if where else "",
        )
    return data


def _must_be_file(part: Part, example: str) -> None:
    if part.filename is None:
        raise Problem(
            problems.INVALID_FORM,
            f"The field {part.name!r} came as a string of {part.size} bytes, not as a file.",
            hint=f"With curl: -F {example}, with the @. URLs are not fetched.",
        )


def _wrong_fields(found: str, options: Collection[str]) -> Problem:
    others = f"beside it only {', '.join(options)}" if options else "no other"
    return Problem(
        problems.INVALID_FORM,
        f"The form must have the field {FIELD!r}, once, and {others}; it has {found}.",
        hint=f"With curl: -F {FIELD}=@photo.jpg."
        + ("" if options else " Options such as top_k go into the query."),
    )


def _too_large(max_bytes: int) -> Problem:
    return Problem(
        problems.TOO_MANY_BYTES,
        f"An image may have {max_bytes:,} bytes.",
        hint="Send a smaller version of it.",
    )
