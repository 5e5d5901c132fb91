"""OpenVINO's own files, made of an ONNX file: the graph, and the weights beside it."""

from __future__ import annotations

from pathlib import Path

from tlserve.bundle.manifest import Scalar
from tlserve.runtime.openvino import new_core


def write(onnx: Path, path: Path) -> dict[str, Scalar]:
    """Convert an ONNX file; what it says of itself is taken along.

    Weights are kept as float16, which has more digits than the bfloat16 that they are used as.

    Args:
        onnx: The file; its data may be beside it.
        path: The graph's file to write, which ends in ``.xml``; the weights' ends in ``.bin``.

    Returns:
        The version of OpenVINO: an older one may not read the file.
    """
    # Not above: the runtime's module keeps it from reporting that it is used, if it comes first.
    import openvino

    openvino.save_model(new_core().read_model(onnx), path, compress_to_fp16=True)
    return {"openvino": openvino.__version__.split("-")[0]}
