"""What a backend is, and the table of those there are."""

from __future__ import annotations

import importlib
import os
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from tlserve.bundle import Bundle
from tlserve.errors import MissingDependencyError, UsageError

Device = Literal["cpu", "cuda"]


class Backend(Protocol):
    """Runs one bundle's network on one device."""

    name: str
    device: str
    """What really runs: ``cpu`` or ``cuda``."""

    def logits(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run the network.

        Args:
            batch: float32, shape [N, 3, height, width], preprocessed.

        Returns:
            float32, shape [N, classes].
        """
        ...


BACKENDS = {
    "onnx": "tlserve.runtime.onnx",
    "torchscript": "tlserve.runtime.torchscript",
    "eager": "tlserve.runtime.eager",
}
"""Each module has ``load(bundle, device, threads) -> Backend``; imported when it is asked for."""


def load_backend(
    bundle: Bundle, name: str, device: Device = "cpu", threads: int | None = None
) -> Backend:
    """Load a bundle into a backend.

    Args:
        bundle: The bundle; the hash of the file that is loaded is compared.
        name: One of :data:`BACKENDS`.
        device: Where to run. What is asked for is what runs, or an error.
        threads: Threads for one batch on the CPU; one a processor by default.

    Raises:
        UsageError: There is no such backend.
        MissingDependencyError: Its library is not installed.
        BundleError: The bundle lacks the file that this backend runs, or it was altered.
        DeviceError: The device cannot be used.
    """
    if name not in BACKENDS:
        raise UsageError(f"Unknown backend {name!r}.", hint=f"Known: {', '.join(BACKENDS)}.")
    try:
        module = importlib.import_module(BACKENDS[name])
    except ModuleNotFoundError as error:
        extra = "cpu" if name == "onnx" else "train"
        raise MissingDependencyError(
            f"The backend {name!r} needs the library {error.name!r}, which is not installed.",
            hint=f"Install it with `pip install 'tlserve[{extra}]'`"
            + (" (or [gpu])." if name == "onnx" else "."),
        ) from error
    backend: Backend = module.load(bundle, device, threads or available_processors())
    return backend


def available_processors() -> int:
    """Count the processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
