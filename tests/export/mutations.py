"""Ways to break an export: each takes the real exporter and spoils what it wrote."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import onnx
import torch
from onnx import numpy_helper
from torch import nn

from export import onnx as onnx_format
from export import torchscript as torchscript_format
from export.formats import FormatName
from tlserve.bundle.manifest import Scalar

Write = Callable[[nn.Module, torch.Tensor, Path, str], dict[str, Scalar]]
Change = Callable[[torch.nn.Module], None]


def _spoiled_copy(model: nn.Module, change: Change) -> nn.Module:
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    copy: nn.Module = torch.load(buffer, weights_only=False)
    with torch.no_grad():
        change(copy)
    return copy


def weight_changed(model: nn.Module) -> None:
    """One of 512 x 3 weights of the head, by a tenth."""
    model.fc.weight[1, 7] += 0.1  # type: ignore[union-attr, index, operator]


def classes_swapped(model: nn.Module) -> None:
    """The head's rows in another order than the labels."""
    order = [1, 0, 2]
    model.fc.weight.copy_(model.fc.weight[order])  # type: ignore[union-attr, index, operator]
    model.fc.bias.copy_(model.fc.bias[order])  # type: ignore[union-attr, index, operator]


def not_a_number(model: nn.Module) -> None:
    """A NaN in the bias."""
    model.fc.bias[0] = float("nan")  # type: ignore[union-attr, operator]


def training_mode(model: nn.Module) -> None:
    """Batch normalisation by the batch's own statistics; torch's ONNX exporter undoes it."""
    model.train()


def colours_swapped(model: nn.Module) -> None:
    """BGR instead of RGB."""
    model.conv1.weight.copy_(model.conv1.weight.flip(1))  # type: ignore[union-attr, operator]


MODEL_CHANGES: dict[str, Change] = {
    "weight changed": weight_changed,
    "classes swapped": classes_swapped,
    "NaN": not_a_number,
    "training mode": training_mode,
    "colours swapped": colours_swapped,
}


def with_changed_model(write: Write, change: Change) -> Write:
    """Export another model than the one that was trained."""

    def spoiled(
        model: nn.Module, example: torch.Tensor, path: Path, metadata: str
    ) -> dict[str, Scalar]:
        return write(_spoiled_copy(model, change), example, path, metadata)

    return spoiled


def with_changed_metadata(write: Write, change: Callable[[dict[str, object]], None]) -> Write:
    """Export the right model with a wrong description."""

    def spoiled(
        model: nn.Module, example: torch.Tensor, path: Path, metadata: str
    ) -> dict[str, Scalar]:
        content = json.loads(metadata)
        change(content)
        return write(model, example, path, json.dumps(content, sort_keys=True))

    return spoiled


def swap_class_names(content: dict[str, object]) -> None:
    classes = content["classes"]
    assert isinstance(classes, list)
    classes[0], classes[1] = classes[1], classes[0]


def alter_mean(content: dict[str, object]) -> None:
    preprocessing = content["preprocessing"]
    assert isinstance(preprocessing, dict)
    preprocessing["mean"] = [0.5, 0.5, 0.5]


METADATA_CHANGES = {"class names swapped": swap_class_names, "mean altered": alter_mean}


def onnx_with_an_edited_weight(
    model: nn.Module, example: torch.Tensor, path: Path, metadata: str
) -> dict[str, Scalar]:
    """Change one number of the written ONNX file itself."""
    details = onnx_format.write(model, example, path, metadata)
    proto = onnx.load_model(str(path))
    head = next(i for i in proto.graph.initializer if i.name == "fc.weight")
    values = numpy_helper.to_array(head).copy()
    values.flat[0] += 1.0
    head.CopyFrom(numpy_helper.from_array(values, head.name))
    path.write_bytes(proto.SerializeToString())
    return details


def onnx_with_a_fixed_batch(
    model: nn.Module, example: torch.Tensor, path: Path, metadata: str
) -> dict[str, Scalar]:
    """Freeze the batch axis at the example's size."""
    details = onnx_format.write(model, example, path, metadata)
    proto = onnx.load_model(str(path))
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = len(example)
    path.write_bytes(proto.SerializeToString())
    return details


def torchscript_with_an_edited_weight(
    model: nn.Module, example: torch.Tensor, path: Path, metadata: str
) -> dict[str, Scalar]:
    """Change one number of the written TorchScript file itself."""
    details = torchscript_format.write(model, example, path, metadata)
    module = torch.jit.load(str(path))  # type: ignore[no-untyped-call]
    with torch.no_grad():
        next(module.parameters()).view(-1)[0].add_(1.0)
    torch.jit.save(module, str(path), _extra_files={"tlserve.json": metadata.encode()})
    return details


FILE_CHANGES: dict[str, tuple[FormatName, Write]] = {
    "onnx: edited weight": ("onnx", onnx_with_an_edited_weight),
    "onnx: fixed batch": ("onnx", onnx_with_a_fixed_batch),
    "torchscript: edited weight": ("torchscript", torchscript_with_an_edited_weight),
}
