"""The TorchScript backend; with ``export.torchscript``, the only user of deprecated torch.jit."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from numpy.typing import NDArray

from tlserve.bundle import Bundle
from tlserve.errors import BundleFileError
from tlserve.runtime.archive import METADATA, extra_text
from tlserve.runtime.backend import Backend, Device
from tlserve.runtime.eager import TorchBackend
from tlserve.runtime.torch_device import torch_device


class TorchScriptBackend(TorchBackend):
    """A ``torch.jit.ScriptModule``."""

    name = "torchscript"

    def logits(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run the network; see :class:`tlserve.runtime.backend.Backend`."""
        # The profiling executor recompiles during the first calls, which costs seconds and changes
        # the arithmetic between calls.
        with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
            return super().logits(batch)


def load(bundle: Bundle, _name: str, device: Device, threads: int | None) -> Backend:
    """Open the bundle's TorchScript file.

    Raises:
        BundleFileError: There is none, or torch cannot read it.
        ChecksumError: It was altered.
        DeviceError: CUDA was asked for and cannot be used.
    """
    path = bundle.verified("torchscript")
    target = torch_device(device)
    try:
        with warnings.catch_warnings():
            # The category depends on the version of torch.
            warnings.filterwarnings("ignore", r".*torch\.jit", FutureWarning)
            warnings.filterwarnings("ignore", r".*torch\.jit", DeprecationWarning)
            content = {METADATA: ""}
            module = torch.jit.load(  # type: ignore[no-untyped-call]
                path, map_location=target, _extra_files=content
            )
    except RuntimeError as error:
        raise BundleFileError(
            f"torch cannot open {path}: {str(error).splitlines()[0]}.",
            hint="Export the model again.",
        ) from error
    backend = TorchScriptBackend(module, target, threads)
    backend.description = extra_text(content[METADATA])
    return backend
