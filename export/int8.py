"""INT8: an ONNX file whose weights and activations are 8-bit integers, calibrated on images.

Static quantisation with QuantizeLinear and DequantizeLinear nodes (Jacob et al. 2018,
https://arxiv.org/abs/1712.05877), weights per channel (Krishnamoorthi 2018,
https://arxiv.org/abs/1806.08342), by ONNX Runtime's quantiser.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from export.calibration import Batches, Reader, quiet
from tlserve.bundle.manifest import Scalar

_GROUPS = 16
"""Neighbouring layers stay in float together: at each border numbers are converted."""

_LAYERS = ("Conv", "Gemm", "MatMul")
_ACTIVATIONS = ("Relu", "Clip")
"""What cuts off a layer's numbers is left to the borders of its 8-bit integers: else these would be
converted twice, before and after it, which takes as long as the layers do."""

_ERRORS_ONLY = 3


class Quantiser:
    """Quantises one network, more or less of it."""

    def __init__(
        self,
        float32: Path,
        images: Batches,
        folder: Path,
    ) -> None:
        """Calibrate.

        Args:
            float32: What :func:`export.onnx.write` wrote.
            images: Some of those that trained.
            folder: For files in between; empty.
        """
        self._images = images
        self._folder = folder
        self._prepared = folder / "prepared.onnx"
        self._ranges = folder / "ranges.json"
        self._ranking: list[list[str]] | None = None
        with quiet():
            # ONNX Runtime's own optimisations first: what they fuse is quantised as one.
            quant_pre_process(float32, self._prepared, skip_symbolic_shape=True)
        graph = onnx.load_model(str(self._prepared), load_external_data=False).graph
        self._clips = _other_than_relu6(graph)
        self._groups = layer_groups(graph)

    def write(self, path: Path, metadata: Mapping[str, str], attempt: int) -> dict[str, Scalar]:
        """Write a quantised file.

        Args:
            path: The file.
            metadata: Its ``metadata_props``.
            attempt: 0: quantise all layers; k: leave the 2^(k-1) of 16 groups of layers in float
                whose quantisation moves the logits most.

        Returns:
            The opset, how many images calibrated, and how many layers stayed in float.
        """
        kept = self._most_sensitive()[: 2 ** (attempt - 1)] if attempt else []
        layers = [name for group in kept for name in group]
        self._quantise(path, exclude=layers)
        proto = onnx.load_model(str(path))
        onnx.helper.set_model_props(proto, dict(metadata))
        content = proto.SerializeToString()
        onnx.checker.check_model(content, full_check=True)
        path.write_bytes(content)
        return {
            "opset": next(o.version for o in proto.opset_import if not o.domain),
            "calibration_images": sum(map(len, self._images)),
            "layers": sum(map(len, self._groups)),
            "layers_in_float": len(layers),
        }

    def _most_sensitive(self) -> list[list[str]]:
        """Order the groups by how far the logits move when one alone is quantised."""
        if self._ranking is None:
            images = self._images[0]
            expected = _logits(self._prepared, images)
            moved = []
            for group in self._groups:
                others = [name for other in self._groups if other is not group for name in other]
                alone = self._folder / "alone.onnx"
                self._quantise(alone, exclude=others)
                moved.append(float(np.square(_logits(alone, images) - expected).mean()))
            order = np.argsort(moved)[::-1]
            self._ranking = [self._groups[int(number)] for number in order]
        return self._ranking

    def _quantise(self, path: Path, exclude: Sequence[str]) -> None:
        with quiet():
            quantize_static(
                self._prepared,
                path,
                Reader(self._prepared, self._images),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=[*_LAYERS, *_ACTIVATIONS],
                per_channel=True,
                # With 8 bits, sums of products overflow on processors without VNNI instructions:
                # the file would answer otherwise there than where its parity was measured.
                reduce_range=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                nodes_to_exclude=[*exclude, *self._clips],
                calibrate_method=CalibrationMethod.MinMax,
                calibration_cache_path=self._ranges,
            )


def layer_groups(graph: onnx.GraphProto) -> list[list[str]]:
    """Divide the layers into groups of about the same number, ordered as they run.

    Each border lies where fewest numbers would be converted, within half a group of where it would
    lie otherwise: behind the bottleneck of a block, not behind what widens it.
    """
    sizes = {
        value.name: math.prod(d.dim_value or 1 for d in value.type.tensor_type.shape.dim)
        for value in (*graph.value_info, *graph.output)
    }
    layers = [node for node in graph.node if node.op_type in _LAYERS]
    count = min(_GROUPS, len(layers))
    reach = (len(layers) // count - 1) // 2
    borders = [0]
    for even in np.cumsum([len(part) for part in np.array_split(layers, count)])[:-1].tolist():
        near = sorted(range(even - reach, even + reach + 1), key=lambda place: abs(place - even))
        borders.append(min(near, key=lambda place: sizes.get(layers[place - 1].output[0], 0)))
    return [
        [layer.name for layer in layers[start:end]]
        for start, end in itertools.pairwise([*borders, len(layers)])
    ]


def _other_than_relu6(graph: onnx.GraphProto) -> list[str]:
    """Name each Clip whose lower border is not 0, which 8-bit integers always reach."""
    known = {tensor.name: tensor for tensor in graph.initializer}
    lower = {
        node.name: known[node.input[1]] if node.input[1:] and node.input[1] in known else None
        for node in graph.node
        if node.op_type == "Clip"
    }
    return [
        name
        for name, tensor in lower.items()
        if tensor is None or onnx.numpy_helper.to_array(tensor) != 0
    ]


def _logits(model: Path, images: NDArray[np.float32]) -> NDArray[np.float32]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    result: NDArray[np.float32] = session.run(None, {session.get_inputs()[0].name: images})[0]
    return result
