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
from tlserve.runtime.archive import ONNX_METADATA

INPUT, OUTPUT, BATCH = "images", "logits", "batch"

DATA_SUFFIX = ".data"
"""Added to the model's file name: where the weights are that do not fit into one file."""

MAX_WEIGHTS_IN_FILE = 2**31 - 2**26
"""Bytes. A protobuf holds at most 2 GiB; 64 MiB of it are left for the graph."""


def write(model: nn.Module, example: torch.Tensor, path: Path, metadata: str) -> dict[str, Scalar]:
    """Export a model to one ONNX file with a dynamic batch axis.

    Weights of more than :data:`MAX_WEIGHTS_IN_FILE` go into a second file beside it, as ONNX's
    external data.

    Args:
        model: In evaluation mode, on the CPU.
        example: float32, shape [N, 3, height, width], N > 1: an axis of 1 would be specialised.
        path: The file to write; with :data:`DATA_SUFFIX`, the second one.
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
    program.model.metadata_props[ONNX_METADATA] = metadata
    if _weights_size(program) > MAX_WEIGHTS_IN_FILE:
        program.save(path, external_data=True)
        onnx.checker.check_model(str(path), full_check=True)
    else:
        # Checked as bytes: the checker would make them once more of a model.
        content = program.model_proto.SerializeToString()
        onnx.checker.check_model(content, full_check=True)
        path.write_bytes(content)
    return {"opset": program.model.opset_imports[""]}


def _weights_size(program: torch.onnx.ONNXProgram) -> int:
    tensors = (value.const_value for value in program.model.graph.initializers.values())
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)


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
