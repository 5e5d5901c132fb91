"""The ONNX Runtime backend; needs no torch."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlserve.bundle import Bundle
from tlserve.bundle.manifest import Precision
from tlserve.errors import BundleFileError, DeviceError
from tlserve.runtime.archive import ONNX_METADATA
from tlserve.runtime.backend import BACKENDS, Backend, Device
from tlserve.runtime.processors import available_processors

# ONNX Runtime's official builds report what they load to their maker, from the import on, unless
# they are told not to before it.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_CUDA_OPTIONS = {"use_tf32": "0"}
"""TensorFloat-32 keeps 10 of 23 bits: float32 would no longer be what parity compared."""

_CUDA_PROVIDER = "libonnxruntime_providers_cuda.so"
_ERRORS_ONLY = 3
_FATAL_ONLY = 4


class OnnxBackend:
    """An ``onnxruntime.InferenceSession`` on one execution provider."""

    def __init__(self, session: Any, name: str, device: str) -> None:
        self.session = session
        self.name = name
        self.device = device
        self.precision: Precision = BACKENDS[name].precision
        self.description: str | None = session.get_modelmeta().custom_metadata_map.get(
            ONNX_METADATA, ""
        )
        self._input = session.get_inputs()[0].name

    def logits(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run the network; see :class:`tlserve.runtime.backend.Backend`."""
        (result,) = self.session.run(None, {self._input: batch})
        logits: NDArray[np.float32] = result
        return logits


def load(bundle: Bundle, name: str, device: Device, threads: int | None) -> Backend:
    """Open one of the bundle's ONNX files.

    Raises:
        BundleFileError: There is none, or ONNX Runtime cannot read it.
        ChecksumError: It was altered.
        DeviceError: ONNX Runtime would run on another device than the one asked for.
    """
    path = bundle.verified(BACKENDS[name].kind)
    provider = _PROVIDERS[device]
    available = onnxruntime.get_available_providers()
    if provider not in available:
        raise DeviceError(
            f"ONNX Runtime has no {provider}; this build has {', '.join(available)}.",
            hint="Install `tlserve[gpu]` instead of `tlserve[cpu]`, or use --device cpu.",
        )
    providers: list[Any] = [provider]
    if device == "cuda":
        # The CUDA libraries come as wheels, which the dynamic loader does not look into.
        onnxruntime.preload_dlls()
        # What it would log of a provider that cannot be loaded, the error below says in full.
        onnxruntime.set_default_logger_severity(_FATAL_ONLY)
        providers = [(provider, _CUDA_OPTIONS)]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or available_processors()
    if threads is None:
        # To be woken in every layer would take threads a fifth of the time that an image takes;
        # but they let go of the processors when the last layer is done.
        options.add_session_config_entry("session.force_spinning_stop", "1")
    else:
        # Other batches and images need the processors while these have nothing to do.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = _ERRORS_ONLY
    try:
        session = onnxruntime.InferenceSession(path, options, providers=providers)
    except Exception as error:  # ONNX Runtime's exceptions have no common base
        raise _cannot_open(path, bundle, error) from error
    running = session.get_providers()[0]
    if running != provider:
        raise DeviceError(
            f"ONNX Runtime would run on {running} instead of {provider}: {_what_is_missing()}",
            hint="Check `nvidia-smi`, install `tlserve[gpu]`, or use --device cpu.",
        )
    return OnnxBackend(session, name, device)


def _cannot_open(path: Path, bundle: Bundle, error: Exception) -> BundleFileError:
    reason = " ".join(str(error).split())
    if "opset" in reason.lower():
        opset = bundle.manifest.files[path.name].details.get("opset", "of its own")
        return BundleFileError(
            f"ONNX Runtime {onnxruntime.__version__} does not know the opset {opset} that {path} "
            f"uses: {reason}.",
            hint="Install a newer onnxruntime, or export the model again where the old one is.",
        )
    return BundleFileError(
        f"ONNX Runtime cannot open {path}: {reason}.", hint="Export the model again."
    )


def _what_is_missing() -> str:
    """Name the library for want of which the CUDA provider does not load."""
    # ONNX Runtime falls back without an exception that would say it; the loader does say it.
    library = Path(onnxruntime.__file__).parent / "capi" / _CUDA_PROVIDER
    if not library.is_file():
        return f"{library.name} is not installed."
    try:
        # Global, as its own loading is: the provider finds its functions in what is loaded already.
        ctypes.CDLL(
            str(library.with_name("libonnxruntime_providers_shared.so")), ctypes.RTLD_GLOBAL
        )
        ctypes.CDLL(str(library))
    except OSError as error:
        return f"{error}."
    return "all its libraries are there, but it finds no GPU that it can use."
