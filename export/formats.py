"""The formats that a bundle can be exported to: one literal table."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from export import onnx, torchscript
from tlserve.bundle import Bundle
from tlserve.bundle.manifest import FileKind, Scalar

FormatName = Literal["onnx", "torchscript"]


@dataclass(frozen=True)
class Format:
    """How a format is written and read back.

    Attributes:
        file: The file's name inside the bundle.
        write: Exports a model and returns details for the manifest.
        read_metadata: Gives the metadata text of a written file.
        companions: Further files that :attr:`write` may leave beside it, with their kinds.
    """

    file: str
    write: Callable[[nn.Module, torch.Tensor, Path, str], dict[str, Scalar]]
    read_metadata: Callable[[Path], str]
    companions: dict[str, FileKind] = field(default_factory=dict)


FORMATS: dict[FormatName, Format] = {
    "onnx": Format(
        "model.onnx",
        onnx.write,
        onnx.read_metadata,
        {f"model.onnx{onnx.DATA_SUFFIX}": "onnx-data"},
    ),
    "torchscript": Format("model.torchscript.pt", torchscript.write, torchscript.read_metadata),
}


def metadata(bundle: Bundle) -> str:
    """Describe a model inside its exported file, so that the file is complete without the bundle.

    Returns:
        JSON: name, version, classes in index order, preprocessing and calibration.
    """
    manifest = bundle.manifest
    content = manifest.model_dump(
        mode="json",
        include={"name", "version", "architecture", "classes", "preprocessing", "calibration"},
    )
    return json.dumps(content, sort_keys=True, ensure_ascii=False)
