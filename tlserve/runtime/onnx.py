"""The ONNX Runtime backend; needs no torch."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlserve.bundle import Bundle
from tlserve.errors import BundleFileError, DeviceError
from tlserve.runtime.backend import Backend, Device

# ONNX Runtime's official builds report what they load to their maker, from the import on, unless
# they are told not to before it.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_ERRORS_ONLY = 3
_FATAL_ONLY = 4


class OnnxBackend:
    """An ``onnxruntime.InferenceSession`` on one execution provider."""

    name = "onnx"

    def __init__(self, session: Any, device: str) -> None:
        self.session = session
        self.device = device
        self._input = session.get_inputs()[0].name

    def logits(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run the network; see :class:`tlserve.runtime.backend.Backend`."""
        (result,) = self.session.run(None, {self._input: batch})
        logits: NDArray[np.float32] = result
        return logits


def load(bundle: Bundle, device: Device, threads: int) -> Backend:
    """Open the bundle's ONNX file.

    Raises:
        BundleFileError: There is none, or ONNX Runtime cannot read it.
        ChecksumError: It was altered.
        DeviceError: ONNX Runtime would run on another device than the one asked for.
    """
    path = bundle.verified("onnx")
    provider = _PROVIDERS[device]
    available = onnxruntime.get_available_providers()
    if provider not in available:
        raise DeviceError(
            f"ONNX Runtime has no {provider}; this build has {', '.join(available)}.",
            hint="Install `tlserve[gpu]` instead of `tlserve[cpu]`, or use --device cpu.",
        )
    if device == "cuda":
        # The CUDA libraries come as wheels, which the dynamic loader does not look into.
        onnxruntime.preload_dlls()
        # What it would log of a provider that cannot be loaded, the error below says in full.
        onnxruntime.set_default_logger_severity(_FATAL_ONLY)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = _ERRORS_ONLY
    try:
        session = onnxruntime.InferenceSession(path, options, providers=[provider])
    except Exception as error:  # ONNX Runtime's exceptions have no common base
        raise BundleFileError(
            f"ONNX Runtime cannot open {path}: {error}.", hint="Export the model again."
        ) from error
    running = session.get_providers()[0]
    if running != provider:
        raise DeviceError(
            f"ONNX Runtime would run on {running} instead of {provider}: a CUDA library or the GPU "
            "driver cannot be loaded.",
            hint="Check `nvidia-smi`, install `tlserve[gpu]`, or use --device cpu.",
        )
    return OnnxBackend(session, device)
