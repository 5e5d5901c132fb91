"""ONNX, through torch's exporter that is built on ``torch.export``."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import onnx
import torch
from torch import nn

from tlserve.bundle.manifest import Scalar

METADATA = "tlserve"
INPUT, OUTPUT, BATCH = "images", "logits", "batch"


def write(model: nn.Module, example: torch.Tensor, path: Path, metadata: str) -> dict[str, Scalar]:
    """Export a model to one ONNX file with a dynamic batch axis.

    Args:
        model: In evaluation mode, on the CPU.
        example: float32, shape [N, 3, height, width], N > 1: an axis of 1 would be specialised.
        path: The file to write.
        metadata: Kept in the file's ``metadata_props``.

    Returns:
        The opset.
    """
    with _quiet():
        program = torch.onnx.export(
            model,
            (example,),
            dynamo=True,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: torch.export.Dim(BATCH)},),
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export gave no program")
    proto = program.model_proto
    onnx.helper.set_model_props(proto, {METADATA: metadata})
    onnx.checker.check_model(proto, full_check=True)
    path.write_bytes(proto.SerializeToString())
    return {"opset": next(o.version for o in proto.opset_import if o.domain in ("", "ai.onnx"))}


def read_metadata(path: Path) -> str:
    """Read what :func:`write` kept beside the weights."""
    proto = onnx.load_model(str(path), load_external_data=False)
    return next((p.value for p in proto.metadata_props if p.key == METADATA), "")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's progress prints and its remarks about itself from the user's terminal."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
