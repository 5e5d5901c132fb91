"""The formats that a bundle can be exported to: one literal table."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from export import onnx, pt2, torchscript
from export.source import Source
from tlserve.bundle.manifest import FileKind, Scalar
from tlserve.runtime.archive import ONNX_METADATA
from tlserve.runtime.backend import import_library

FormatName = Literal["onnx", "onnx-fp16", "onnx-int8", "openvino-bf16", "torchscript", "pt2"]
"""Each is the name of the backend that runs it, and the kind of its file."""

Details = dict[str, Scalar]
"""What ``bundle.json`` says of how a file was made."""


@dataclass(frozen=True)
class Format:
    """How a format is written.

    Attributes:
        file: The file's name inside the bundle.
        write: Exports a model to a path and returns details. It is told which attempt it is, from
            0: where decisions change by more than the budget, a later one is more careful.
        companions: Further files that :attr:`write` may leave beside it, with their kinds.
        attempts: How many there are.
        check: Raises MissingDependencyError or ProcessorError where it cannot be written and
            compared here.
    """

    file: str
    write: Callable[[Source, Path, int], Details]
    companions: dict[str, FileKind] = field(default_factory=dict)
    attempts: int = 1
    check: Callable[[], None] = lambda: None


def _onnx(source: Source, path: Path, _attempt: int) -> Details:
    written, details = source.float32_onnx
    shutil.copyfile(written, path)
    data = written.with_name(written.name + onnx.DATA_SUFFIX)
    if data.exists():
        shutil.copyfile(data, path.with_name(data.name))
    return details


def _fp16(source: Source, path: Path, _attempt: int) -> Details:
    from export import fp16

    float32, _ = source.float32_onnx
    return fp16.write(float32, path, source.images, source.folder())


def _int8(source: Source, path: Path, attempt: int) -> Details:
    return source.quantiser.write(path, {ONNX_METADATA: source.metadata}, attempt)


def _openvino_here() -> None:
    import_library("openvino-bf16").check_bfloat16()


def _openvino_bf16(source: Source, path: Path, _attempt: int) -> Details:
    from export import openvino

    float32, _ = source.float32_onnx
    return openvino.write(float32, path)


def _torchscript(source: Source, path: Path, _attempt: int) -> Details:
    return torchscript.write(source.model, source.example, path, source.metadata)


def _pt2(source: Source, path: Path, _attempt: int) -> Details:
    return pt2.write(source.model, source.example, path, source.metadata)


FORMATS: dict[FormatName, Format] = {
    "onnx": Format("model.onnx", _onnx, {f"model.onnx{onnx.DATA_SUFFIX}": "onnx-data"}),
    "onnx-fp16": Format("model.fp16.onnx", _fp16),
    "onnx-int8": Format("model.int8.onnx", _int8, attempts=5),
    "openvino-bf16": Format(
        "model.bf16.xml",
        _openvino_bf16,
        {"model.bf16.bin": "openvino-bf16-data"},
        check=_openvino_here,
    ),
    "torchscript": Format("model.torchscript.pt", _torchscript),
    "pt2": Format("model.pt2", _pt2),
}
