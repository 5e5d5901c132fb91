"""``torch.export``: a graph of ATen operators with its weights, in a ``.pt2`` archive."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import torch
from torch import nn

from tlserve.bundle.manifest import Scalar
from tlserve.runtime.archive import METADATA

_BATCH = "batch"


def write(model: nn.Module, example: torch.Tensor, path: Path, metadata: str) -> dict[str, Scalar]:
    """Export a model to one ``.pt2`` file with a dynamic batch axis.

    Args:
        model: In evaluation mode, on the CPU.
        example: float32, shape [N, 3, height, width], N > 1: an axis of 1 would be specialised.
        path: The file to write.
        metadata: Kept inside the archive.

    Returns:
        The version of torch that wrote it: another one may not read it.
    """
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(
            model, (example,), dynamic_shapes=({0: torch.export.Dim(_BATCH)},), strict=False
        )
        buffer = io.BytesIO()
        torch.export.save(program, buffer, extra_files={METADATA: metadata})
    # Written by Python rather than by torch, whose errors hide what the disk said.
    path.write_bytes(buffer.getbuffer())
    return {"torch": torch.__version__}
