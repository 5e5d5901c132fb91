"""Ways to break an export: each takes the real exporter and spoils its input or what it wrote."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional

from export.formats import FORMATS, Details, FormatName
from export.source import Source
from tlserve.runtime.archive import METADATA

Write = Callable[[Source, Path, int], Details]
Change = Callable[[Any], object]


@dataclass(frozen=True)
class Mutation:
    """One way to break an export.

    Attributes:
        what: In words, for the table in docs/exports.md.
        levels: Those that must find it, and no others.
        formats: What it is tried on.
        write: Gives the spoiled writer of a format.
    """

    what: str
    levels: frozenset[str]
    formats: tuple[FormatName, ...]
    write: Callable[[FormatName], Write]


ALL: tuple[FormatName, ...] = ("onnx", "torchscript", "pt2")
EVERY: tuple[FormatName, ...] = (*ALL, "onnx-fp16", "onnx-int8", "openvino-bf16")
_TORCH: tuple[FormatName, ...] = ("torchscript", "pt2")
_QUICK: tuple[FormatName, ...] = ("torchscript",)
"""Written fastest; the levels are the same for all."""
_ANSWERS = frozenset({"numbers", "bytes"})


def _with_model(change: Change) -> Callable[[FormatName], Write]:
    """Export another model than the one that was trained."""

    def writer(name: FormatName) -> Write:
        def write(source: Source, path: Path, attempt: int) -> Details:
            model = copy.deepcopy(source.model)
            with torch.no_grad():
                changed = change(model)
            other = copy.copy(source)
            other.__dict__.pop("float32_onnx", None)
            other.model = changed if isinstance(changed, nn.Module) else model
            return _ORIGINAL[name](other, path, attempt)

        return write

    return writer


def _with_description(change: Callable[[dict[str, Any]], object]) -> Callable[[FormatName], Write]:
    """Export the right model with a wrong description."""

    def writer(name: FormatName) -> Write:
        def write(source: Source, path: Path, attempt: int) -> Details:
            content = json.loads(source.metadata)
            change(content)
            other = copy.copy(source)
            other.__dict__.pop("float32_onnx", None)
            other.metadata = json.dumps(content, sort_keys=True)
            return _ORIGINAL[name](other, path, attempt)

        return write

    return writer


def _with_onnx(change: Callable[[onnx.ModelProto], object]) -> Callable[[FormatName], Write]:
    """Change the written ONNX file itself."""

    def writer(name: FormatName) -> Write:
        def write(source: Source, path: Path, attempt: int) -> Details:
            details = _ORIGINAL[name](source, path, attempt)
            proto = onnx.load_model(str(path))
            change(proto)
            path.write_bytes(proto.SerializeToString())
            return details

        return write

    return writer


_ORIGINAL = {name: made.write for name, made in FORMATS.items()}


# Of the model ----------------------------------------------------------------------------------


def _weight(model: Any) -> None:
    model.fc.weight[1, 7] += 0.1


def _head_order(model: Any) -> None:
    order = [1, 0, 2]
    model.fc.weight.copy_(model.fc.weight[order])
    model.fc.bias.copy_(model.fc.bias[order])


def _nan(model: Any) -> None:
    model.fc.bias[0] = float("nan")


def _training_mode(model: Any) -> None:
    model.train()


def _bgr(model: Any) -> None:
    model.conv1.weight.copy_(model.conv1.weight.flip(1))


def _no_bias(model: Any) -> None:
    model.fc.bias.zero_()


def _no_last_block(model: Any) -> None:
    model.layer4[1] = nn.Identity()


def _rounded(model: Any) -> None:
    for parameter in model.parameters():
        parameter.copy_(parameter.bfloat16().float())


def _statistics(model: Any) -> None:
    model.layer1[0].bn1.running_mean += 0.05


class _Wrapped(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model


class _Dropout(_Wrapped):
    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = functional.dropout(self.model(images), 0.5, training=True)
        return logits


class _Softmax(_Wrapped):
    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images)
        return logits.softmax(1)


class _Normalised(_Wrapped):
    """Normalises what is normalised."""

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model((images - 0.45) / 0.225)
        return logits


class _Reversed(_Wrapped):
    """Each answer belongs to another image of the batch."""

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images)
        return logits.flip(0)


class _First(_Wrapped):
    """All get the answer of the first."""

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images)
        return logits[:1].expand(logits.shape[0], -1)


class _Company(_Wrapped):
    """Answers depend on who shares the batch."""

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images)
        return logits + 0.05 * (logits.mean(0, keepdim=True) - logits)


# Of the file -----------------------------------------------------------------------------------


def _initializer(proto: onnx.ModelProto, name: str) -> TensorProto:
    found: TensorProto = next(t for t in proto.graph.initializer if name in t.name)
    return found


def _edited_weight(proto: onnx.ModelProto) -> None:
    head = _initializer(proto, "fc.weight")
    values = numpy_helper.to_array(head).copy()
    values.flat[0] += 1.0
    head.CopyFrom(numpy_helper.from_array(values, head.name))


def _fixed_batch(proto: onnx.ModelProto) -> None:
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2


def _negated(proto: onnx.ModelProto) -> None:
    output = proto.graph.output[0].name
    for node in proto.graph.node:
        for number, name in enumerate(node.output):
            if name == output:
                node.output[number] = "before"
    proto.graph.node.append(helper.make_node("Neg", ["before"], [output]))


def _wrong_scale(proto: onnx.ModelProto) -> None:
    scale = _initializer(proto, "fc.weight_scale")
    values = numpy_helper.to_array(scale) * 4
    scale.CopyFrom(numpy_helper.from_array(values, scale.name))


def scaled(*factors: float) -> Callable[[FormatName], Write]:
    """Convert a model to float16 that is the same for float32, with large numbers in between."""

    def writer(name: FormatName) -> Write:
        def write(source: Source, path: Path, attempt: int) -> Details:
            file, details = source.float32_onnx
            proto = onnx.load_model(str(file))
            _multiply(proto, [*factors, *(1 / factor for factor in factors)])
            large = file.with_name("large.onnx")
            large.write_bytes(proto.SerializeToString())
            other = copy.copy(source)
            other.__dict__["float32_onnx"] = (large, details)
            return _ORIGINAL[name](other, path, attempt)

        return write

    return writer


def _multiply(proto: onnx.ModelProto, factors: list[float]) -> None:
    """Multiply the logits by one factor after the other."""
    output = proto.graph.output[0].name
    for node in proto.graph.node:
        for number, name in enumerate(node.output):
            if name == output:
                node.output[number] = "product0"
    for number, factor in enumerate(factors):
        constant = helper.make_tensor(f"factor{number}", TensorProto.FLOAT, [], [factor])
        proto.graph.initializer.append(constant)
        product = output if number + 1 == len(factors) else f"product{number + 1}"
        inputs = [f"product{number}", f"factor{number}"]
        proto.graph.node.append(helper.make_node("Mul", inputs, [product]))


def _torchscript_weight(name: FormatName) -> Write:
    def write(source: Source, path: Path, attempt: int) -> Details:
        details = _ORIGINAL[name](source, path, attempt)
        module = torch.jit.load(str(path))  # type: ignore[no-untyped-call]
        with torch.no_grad():
            next(module.parameters()).view(-1)[0].add_(1.0)
        torch.jit.save(module, str(path), _extra_files={METADATA: source.metadata.encode()})
        return details

    return write


# Of the description ----------------------------------------------------------------------------


def _set(*keys: str, to: object) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        place = content
        for key in keys[:-1]:
            place = place[key]
        assert place[keys[-1]] != to
        place[keys[-1]] = to

    return change


def _swap_classes(content: dict[str, Any]) -> None:
    classes = content["classes"]
    classes[0], classes[1] = classes[1], classes[0]


_DESCRIPTION = frozenset({"description"})
_MEAN, _STD = [0.5, 0.5, 0.5], [0.5, 0.5, 0.5]

MUTATIONS = [
    Mutation("a weight of the head changed by 0.1", _ANSWERS, ALL, _with_model(_weight)),
    Mutation(
        "the head's outputs in another order",
        _ANSWERS,
        ("pt2", "openvino-bf16"),
        _with_model(_head_order),
    ),
    Mutation("the head without its bias", _ANSWERS, ("torchscript",), _with_model(_no_bias)),
    Mutation("a block left out", _ANSWERS, ("pt2",), _with_model(_no_last_block)),
    Mutation("weights rounded to bfloat16", _ANSWERS, ("torchscript",), _with_model(_rounded)),
    Mutation(
        "statistics of a batch normalisation moved", _ANSWERS, ("onnx",), _with_model(_statistics)
    ),
    Mutation("NaN in the bias", _ANSWERS | {"batches"}, ALL, _with_model(_nan)),
    Mutation("blue and red exchanged in the network", _ANSWERS, ("pt2",), _with_model(_bgr)),
    Mutation("normalised twice", _ANSWERS, ("torchscript",), _with_model(_Normalised)),
    Mutation("softmax included", _ANSWERS, ("pt2",), _with_model(_Softmax)),
    Mutation(
        "dropout left on",
        _ANSWERS | {"batches"},
        _TORCH,
        _with_model(_Dropout),
    ),
    Mutation(
        "batch normalisation in training mode",
        _ANSWERS | {"batches"},
        ("torchscript",),
        _with_model(_training_mode),
    ),
    Mutation(
        "answers of a batch in another order",
        frozenset({"numbers", "batches"}),
        ("torchscript",),
        _with_model(_Reversed),
    ),
    Mutation(
        "the first answer for all of a batch",
        frozenset({"numbers", "batches"}),
        ("pt2",),
        _with_model(_First),
    ),
    Mutation(
        "an answer that depends on who shares the batch",
        frozenset({"numbers", "batches"}),
        ("onnx",),
        _with_model(_Company),
    ),
    Mutation("a weight edited in the file", _ANSWERS, ("onnx",), _with_onnx(_edited_weight)),
    Mutation("a weight edited in the archive", _ANSWERS, ("torchscript",), _torchscript_weight),
    Mutation("the sign of the logits", _ANSWERS, ("onnx",), _with_onnx(_negated)),
    Mutation(
        "the batch axis frozen",
        frozenset({"numbers", "batches", "bytes"}),
        ("onnx",),
        _with_onnx(_fixed_batch),
    ),
    Mutation("a weight beyond float16", _ANSWERS, ("onnx-fp16",), scaled(2.0**-20)),
    Mutation(
        "a scale of INT8 four times too large", _ANSWERS, ("onnx-int8",), _with_onnx(_wrong_scale)
    ),
    Mutation("class names exchanged", _DESCRIPTION, EVERY, _with_description(_swap_classes)),
    Mutation(
        "a class missing from the list",
        _DESCRIPTION,
        _QUICK,
        _with_description(lambda content: content["classes"].pop()),
    ),
    Mutation(
        "mean", _DESCRIPTION, _QUICK, _with_description(_set("preprocessing", "mean", to=_MEAN))
    ),
    Mutation("std", _DESCRIPTION, _QUICK, _with_description(_set("preprocessing", "std", to=_STD))),
    Mutation(
        "resize rule",
        _DESCRIPTION,
        _QUICK,
        _with_description(_set("preprocessing", "resize", to=[48])),
    ),
    Mutation(
        "interpolation",
        _DESCRIPTION,
        _QUICK,
        _with_description(_set("preprocessing", "interpolation", to="nearest")),
    ),
    Mutation(
        "crop", _DESCRIPTION, _QUICK, _with_description(_set("preprocessing", "crop", to=[24, 24]))
    ),
    Mutation(
        "colour order",
        _DESCRIPTION,
        _QUICK,
        _with_description(_set("preprocessing", "colour", to="BGR")),
    ),
    Mutation(
        "temperature",
        _DESCRIPTION,
        _QUICK,
        _with_description(_set("calibration", "temperature", to=2.0)),
    ),
]

BUNDLE_MUTATIONS: dict[str, dict[str, Any]] = {
    "mean in bundle.json": {"preprocessing": {"mean": (0.5, 0.5, 0.5)}},
    "std in bundle.json": {"preprocessing": {"std": (0.5, 0.5, 0.5)}},
    "resize rule in bundle.json": {"preprocessing": {"resize": (48,)}},
    "interpolation in bundle.json": {"preprocessing": {"interpolation": "nearest"}},
    "class names exchanged in bundle.json": {"classes": ("green", "blue", "red")},
    "temperature in bundle.json": {"calibration": {"temperature": 2.0}},
}
"""Fields changed, and everything made consistent with them again: version and hashes."""
