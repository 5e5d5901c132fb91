"""From the body of a request to what it asks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic_core import from_json

from service.faces import problems
from service.faces.problems import Problem
from service.faces.uploads import too_many_images
from service.faces.v2.tensors import (
    IMAGE,
    INPUT,
    LABEL,
    PROBABILITIES,
    floats_from_bytes,
    floats_from_json,
    images_from_bytes,
    images_from_json,
    invalid,
)

HEADER = "Inference-Header-Content-Length"

_Member = TypeVar("_Member", dict[str, Any], list[Any], str, bool)


@dataclass(frozen=True, slots=True)
class Accepted:
    """What a request may bring.

    Attributes:
        images: The most images.
        json_bytes: The most bytes of JSON.
        crop: The height and width of the network's input.
    """

    images: int
    json_bytes: int
    crop: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Output:
    """One output that is asked for.

    Attributes:
        name: Its name.
        binary: Whether it comes as bytes after the JSON.
        classes: Instead of all probabilities, so many of the most probable, as strings; 0: no.
    """

    name: str
    binary: bool
    classes: int = 0


@dataclass(frozen=True, slots=True)
class Inference:
    """What a request asks; it has either images or tensors.

    Attributes:
        id: The client's own name for it.
        outputs: What the answer shall have, in order.
        images: Image files.
        tensors: float32, shape [N, 3, height, width].
    """

    id: str | None
    outputs: list[Output]
    images: list[bytes] | None
    tensors: NDArray[np.float32] | None

    @property
    def count(self) -> int:
        """How many answers it asks for."""
        return len(self.images or ()) if self.tensors is None else len(self.tensors)


def read(body: bytes, header_length: str | None, accepted: Accepted) -> Inference:
    """Read a request.

    Args:
        body: JSON, and the binary data after it.
        header_length: The length of the JSON, where binary data comes after it.
        accepted: What it may bring.

    Raises:
        Problem: It breaks a rule.
    """
    length = len(body) if header_length is None else _length(header_length, len(body))
    request = _parsed(body[:length], accepted.json_bytes)
    inputs = _member(request, "inputs", [], "a list", "The request")
    if len(inputs) != 1:
        raise invalid(
            f"A request must have one input, {IMAGE!r} or {INPUT!r}; this one has {len(inputs)}."
        )
    if not isinstance(inputs[0], dict):
        raise invalid("An input must be an object.")
    parameters = _member(request, "parameters", {}, "an object", "The request")
    binary = _member(parameters, "binary_data_output", False, "true or false", "The request")
    images, tensors = _input(inputs[0], memoryview(body)[length:], accepted)
    return Inference(
        id=_member(request, "id", "", "a string", "The request") if "id" in request else None,
        outputs=_outputs(_member(request, "outputs", [], "a list", "The request"), binary),
        images=images,
        tensors=tensors,
    )


def _length(text: str, whole: int) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 20) or int(text) > whole:
        raise invalid(
            f"{HEADER} must be the length of the JSON, at most that of the body, {whole:,}; "
            f"it is {text[:40]!r}."
        )
    return int(text)


def _parsed(text: bytes, limit: int) -> dict[str, Any]:
    if len(text) > limit:
        raise Problem(
            problems.TOO_MANY_BYTES,
            f"The JSON of a request may have {limit:,} bytes; this one has {len(text):,}.",
            hint="Send the data binary: it is smaller, and read faster.",
        )
    try:
        request = from_json(text, allow_inf_nan=False)
    except ValueError as error:
        raise invalid(
            f"The body is not JSON: {error}.",
            hint=f"With binary data after it, {HEADER} must say where it ends.",
        ) from None
    if not isinstance(request, dict):
        raise invalid("The body must be a JSON object.")
    return request


def _input(
    tensor: dict[str, Any], binary: memoryview, accepted: Accepted
) -> tuple[list[bytes] | None, NDArray[np.float32] | None]:
    name = tensor.get("name")
    if name not in (IMAGE, INPUT):
        raise invalid(f"There is no input {_short(name)}.", hint=f"There are {IMAGE!r}, {INPUT!r}.")
    where = f"The input {name!r}"
    datatype, tail = ("BYTES", []) if name == IMAGE else ("FP32", [3, *accepted.crop])
    if tensor.get("datatype") != datatype:
        raise invalid(
            f"{where} has the datatype {datatype!r}, not {_short(tensor.get('datatype'))}."
        )
    shape = _shape(tensor, tail, where, accepted)
    parameters = _member(tensor, "parameters", {}, "an object", where)
    if "shared_memory_region" in parameters:
        raise invalid("Shared memory is not offered here.", hint="Send the data binary.")
    size = parameters.get("binary_data_size")
    if size is None:
        if "data" not in tensor:
            raise invalid(f"{where} has neither data nor a parameter binary_data_size.")
        _must_be_all(0, binary)
        data = tensor["data"]
        if name == IMAGE:
            return images_from_json(data, shape[0], parameters.get("content_type")), None
        return None, floats_from_json(data, shape)
    if "data" in tensor:
        raise invalid(f"{where} has data, and a parameter binary_data_size: it can have one.")
    if type(size) is not int or size < 0:
        raise invalid(f"binary_data_size must be a number of bytes, not {_short(size)}.")
    _must_be_all(size, binary)
    if name == IMAGE:
        return images_from_bytes(binary, shape[0]), None
    return None, floats_from_bytes(binary, shape)


def _shape(tensor: dict[str, Any], tail: list[int], where: str, accepted: Accepted) -> list[int]:
    shape = _member(tensor, "shape", [], "a list", where)
    wanted = ", ".join(["N", *map(str, tail)])
    if not shape or any(type(size) is not int for size in shape) or shape[1:] != tail:
        raise invalid(f"{where} has the shape [{wanted}], not {_short(shape)}.")
    if shape[0] < 1:
        raise invalid(f"{where} must have at least one image, not {shape[0]}.")
    if shape[0] > accepted.images:
        raise too_many_images(accepted.images, f"this one has {_short(shape[0])}")
    return shape


def _must_be_all(size: int, binary: memoryview) -> None:
    if size != len(binary):
        raise invalid(
            f"{len(binary):,} bytes come after the JSON; binary_data_size accounts for "
            f"{_short(size)}.",
            hint=f"{HEADER} says where the JSON ends.",
        )


def _outputs(asked: list[Any], binary: bool) -> list[Output]:
    if not asked:
        return [Output(PROBABILITIES, binary), Output(LABEL, binary)]
    outputs = [_output(output, binary) for output in asked]
    if len({output.name for output in outputs}) < len(outputs):
        raise invalid("An output is asked for twice.")
    return outputs


def _output(output: Any, binary: bool) -> Output:
    if not isinstance(output, dict) or output.get("name") not in (PROBABILITIES, LABEL):
        name = output.get("name") if isinstance(output, dict) else output
        raise invalid(
            f"There is no output {_short(name)}.", hint=f"There are {PROBABILITIES!r}, {LABEL!r}."
        )
    where = f"The output {output['name']!r}"
    parameters = _member(output, "parameters", {}, "an object", where)
    if "shared_memory_region" in parameters:
        raise invalid("Shared memory is not offered here.", hint="Ask for binary data.")
    classes = parameters.get("classification", 0)
    if type(classes) is not int or classes < 0:
        raise invalid(f"{where}: classification must be a positive number, not {_short(classes)}.")
    if classes and output["name"] == LABEL:
        raise invalid(f"{where} is a class already.", hint=f"Ask it of {PROBABILITIES!r}.")
    return Output(
        output["name"],
        _member(parameters, "binary_data", binary, "true or false", where),
        classes,
    )


def _member(holder: dict[str, Any], name: str, default: _Member, form: str, where: str) -> _Member:
    """Give a member of the default's type; the default where there is none."""
    value = holder.get(name, default)
    if not isinstance(value, type(default)):
        raise invalid(f"{where}: {name} must be {form}, not {_short(value)}.")
    return value


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:
        return "a number of thousands of digits"
    return text if len(text) <= 60 else f"{text[:60]}…"
