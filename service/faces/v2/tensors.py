"""Tensors of the protocol: from JSON or bytes to arrays and images, and back to bytes."""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.faces import problems
from service.faces.problems import Problem

IMAGE = "image"
INPUT = "input"
PROBABILITIES = "probabilities"
LABEL = "label"

_LENGTH = struct.Struct("<I")


def invalid(detail: str, *, hint: str = "") -> Problem:
    """Say how a request breaks the protocol's rules."""
    return Problem(problems.INVALID_INFERENCE, detail, hint=hint)


def floats_from_json(data: Any, shape: list[int]) -> NDArray[np.float32]:
    """Read numbers, flat or nested as the shape says.

    Raises:
        Problem: They are something else, or not as many.
    """
    try:
        array = np.array(data)
    except ValueError:
        raise invalid(f"The data of {INPUT!r} is nested unevenly.") from None
    if array.dtype.kind not in "iuf":
        raise invalid(f"The data of {INPUT!r} must be numbers, and nothing else.")
    if array.shape not in ((math.prod(shape),), tuple(shape)):
        raise invalid(
            f"The data of {INPUT!r} has the shape {list(array.shape)}; for the shape {shape} it "
            f"must be that, or flat: {math.prod(shape):,} numbers."
        )
    with np.errstate(over="ignore"):
        return _finite(array.astype(np.float32).reshape(shape))


def floats_from_bytes(data: memoryview, shape: list[int]) -> NDArray[np.float32]:
    """Read little-endian float32 values, in row-major order; they are not copied.

    Raises:
        Problem: They are not as many as the shape says.
    """
    if len(data) != 4 * math.prod(shape):
        raise invalid(
            f"The shape {shape} in FP32 has {4 * math.prod(shape):,} bytes; "
            f"binary_data_size says {len(data):,}."
        )
    return _finite(np.frombuffer(data, dtype="<f4").reshape(shape))


def images_from_json(data: Any, count: int, content_type: Any) -> list[bytes]:
    """Read images, which are in base64.

    Raises:
        Problem: They are something else, or not as many.
    """
    if not isinstance(data, list) or not all(isinstance(item, str) for item in data):
        raise invalid(f"The data of {IMAGE!r} must be a list of strings.")
    _must_count(len(data), count)
    if content_type != "base64":
        raise invalid(
            f"The strings of {IMAGE!r} are images in base64 only if its parameters say so: "
            f"content_type is {content_type!r}.",
            hint='Add "parameters": {"content_type": "base64"} to it, or send it as binary data.',
        )
    try:
        return [base64.b64decode(item, validate=True) for item in data]
    except ValueError as error:
        raise invalid(f"The data of {IMAGE!r} is not base64: {error}.") from None


def images_from_bytes(data: memoryview, count: int) -> list[bytes]:
    """Read images, each after its length in four bytes, little-endian.

    Raises:
        Problem: The lengths do not add up, or there are not as many.
    """
    found: list[bytes] = []
    at = 0
    while at < len(data):
        start = at + _LENGTH.size
        at = start + _LENGTH.unpack_from(data, at)[0] if start <= len(data) else start
        if at > len(data):
            raise invalid(
                f"The binary data of {IMAGE!r} ends within its element {len(found)}.",
                hint="Each image comes after its length: four bytes, little-endian.",
            )
        found.append(bytes(data[start:at]))
        if len(found) > count:
            break
    _must_count(len(found), count)
    return found


def bytes_of_strings(strings: Iterable[str]) -> bytes:
    """Write strings, each after its length."""
    encoded = [string.encode() for string in strings]
    return b"".join(_LENGTH.pack(len(item)) + item for item in encoded)


def _must_count(found: int, count: int) -> None:
    if found != count:
        more = "more" if found > count else f"{found}"
        raise invalid(f"The shape of {IMAGE!r} says {count} images; its data has {more}.")


def _finite(array: NDArray[np.float32]) -> NDArray[np.float32]:
    if not np.isfinite(array).all():
        raise invalid(
            f"The data of {INPUT!r} has values that are not finite float32 numbers.",
            hint="NaN and infinity have no answer.",
        )
    return array
