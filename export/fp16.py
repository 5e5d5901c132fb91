"""Half precision: an ONNX file whose weights and arithmetic are float16."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization.onnx_model import ONNXModel
from onnxruntime.transformers.float16 import convert_float_to_float16

from export.calibration import largest
from tlserve.bundle.manifest import Scalar
from tlserve.errors import ExportError

_MAX = float(np.finfo(np.float16).max)


def write(
    float32: Path, path: Path, images: NDArray[np.float32], folder: Path
) -> dict[str, Scalar]:
    """Convert a float32 ONNX file.

    Inputs and outputs stay float32, so that whoever runs the file need not know. A weight that
    float16 cannot hold is cut off at its largest number, which parity judges by its effect. What
    overflows between two layers is looked for here: a CPU computes in float32 all the same, so
    that there parity would not see it.

    Args:
        float32: What :func:`export.onnx.write` wrote.
        path: The file to write.
        images: Preprocessed images to look for overflows with.
        folder: For a file in between.

    Returns:
        The opset.

    Raises:
        ExportError: A number between two layers is too large for float16.
    """
    name, reached = largest(float32, [images], folder)
    # Written so that it is true for what is no number, too.
    if not reached <= _MAX:
        raise ExportError(
            f"float16 ends at {_MAX:.0f}, and in this network {name!r} reaches {reached:.3g} for "
            "the golden images.",
            hint="Use --precision float32 or int8.",
        )
    with warnings.catch_warnings():
        # Of each weight that is cut off, or too small and rounded to the smallest number.
        warnings.simplefilter("ignore")
        proto = convert_float_to_float16(onnx.load_model(str(float32)), keep_io_types=True)
    # The conversion of inputs and outputs is added at the end of the list of nodes.
    ONNXModel(proto).topological_sort()
    content = proto.SerializeToString()
    onnx.checker.check_model(content, full_check=True)
    path.write_bytes(content)
    return {"opset": next(o.version for o in proto.opset_import if not o.domain)}
