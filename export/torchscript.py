"""TorchScript. With ``tlserve.runtime.torchscript``, the only user of the deprecated torch.jit."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import torch
from torch import nn
from torch.jit._trace import TracingCheckError

from tlserve.bundle.manifest import Scalar
from tlserve.runtime.archive import METADATA


def write(model: nn.Module, example: torch.Tensor, path: Path, metadata: str) -> dict[str, Scalar]:
    """Trace a model, or script it where tracing is unsound, and save it.

    The tracer runs the model again and compares the graphs. Where they differ between calls, a
    trace may have recorded what holds for one call only, and the model is compiled from its source
    instead. Gradients are off meanwhile: with them the attention of ``vit_b_16`` takes a path in
    the first call that it leaves in the second.

    Args:
        model: In evaluation mode, on the CPU.
        example: float32, shape [N, 3, height, width].
        path: The file to write.
        metadata: Kept inside the archive.

    Returns:
        The method, and why it was chosen.
    """
    with warnings.catch_warnings():
        # torch.jit is deprecated as a whole; tracer warnings tell of Python values that were fixed,
        # which the parity check at other batch sizes judges by their effect.
        warnings.simplefilter("ignore")
        module, details = _compile(model, example)
        buffer = io.BytesIO()
        torch.jit.save(module, buffer, _extra_files={METADATA: metadata.encode()})
    # Written by Python rather than by torch, whose errors hide what the disk said.
    path.write_bytes(buffer.getbuffer())
    return details


def _compile(
    model: nn.Module, example: torch.Tensor
) -> tuple[torch.jit.ScriptModule, dict[str, Scalar]]:
    with torch.no_grad():
        try:
            traced = torch.jit.trace(model, example, check_trace=True)  # type: ignore[no-untyped-call]
        except TracingCheckError as error:
            reason = "the traced graph differs between calls"
            if "Graphs differed" not in str(error):
                reason = "the traced module's outputs differ between calls"
            scripted = torch.jit.script(model)
            return scripted, {"method": "script", "reason": reason}
    return traced, {"method": "trace", "reason": "the tracer's own check passed"}
