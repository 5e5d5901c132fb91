"""Where exported files say what they are."""

from __future__ import annotations

METADATA = "tlserve.json"
"""The name of the extra file inside torch's archives, TorchScript and ``.pt2``: JSON."""

ONNX_METADATA = "tlserve"
"""The key of the same in the ``metadata_props`` of ONNX files."""

OPENVINO_METADATA = ["framework", ONNX_METADATA]
"""Where OpenVINO keeps what it read there: the path in a model's ``rt_info``."""


def extra_text(content: str | bytes) -> str:
    """Give an extra file's text; torch's loaders differ in the type that they give."""
    return content.decode() if isinstance(content, bytes) else content
