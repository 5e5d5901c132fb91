"""What a backend is, and the table of those there are."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from types import ModuleType
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from tlserve.bundle import Bundle
from tlserve.bundle.manifest import FileKind, Precision
from tlserve.errors import DeviceError, MissingDependencyError, UsageError

Device = Literal["cpu", "cuda"]


class Backend(Protocol):
    """Runs one bundle's network on one device."""

    name: str
    device: str
    """What really runs: ``cpu`` or ``cuda``."""
    precision: Precision
    """The narrowest type that the network computes with."""
    description: str | None
    """What the file that it runs says of itself, JSON; ``None``: weights alone say nothing."""

    def logits(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run the network.

        Args:
            batch: float32, shape [N, 3, height, width], preprocessed.

        Returns:
            float32, shape [N, classes].
        """
        ...


@dataclass(frozen=True)
class Library:
    """What runs files of some kinds.

    Attributes:
        module: Has ``load(bundle, name, device, threads) -> Backend``; imported when it is used.
        extra: Of `pyproject.toml`, that installs it.
        devices: Where it runs.
        own_threads: Whether each loaded file has threads of its own, so that it can be loaded twice
            for two numbers of them; torch's are the process's.
    """

    module: str
    extra: str
    devices: tuple[Device, ...]
    own_threads: bool


_ONNX = Library("tlserve.runtime.onnx", "cpu", ("cpu", "cuda"), own_threads=True)
_OPENVINO = Library("tlserve.runtime.openvino", "openvino", ("cpu",), own_threads=True)


def _torch(module: str) -> Library:
    return Library(module, "train", ("cpu", "cuda"), own_threads=False)


@dataclass(frozen=True)
class Runnable:
    """What a backend runs, and with what.

    Attributes:
        library: What runs it.
        kind: The kind of the bundle's file.
        precision: The narrowest type that the network computes with.
    """

    library: Library
    kind: FileKind
    precision: Precision


BACKENDS: dict[str, Runnable] = {
    "onnx": Runnable(_ONNX, "onnx", "float32"),
    "onnx-fp16": Runnable(_ONNX, "onnx-fp16", "float16"),
    "onnx-int8": Runnable(_ONNX, "onnx-int8", "int8"),
    "openvino-bf16": Runnable(_OPENVINO, "openvino-bf16", "bfloat16"),
    "torchscript": Runnable(_torch("tlserve.runtime.torchscript"), "torchscript", "float32"),
    "pt2": Runnable(_torch("tlserve.runtime.pt2"), "pt2", "float32"),
    "eager": Runnable(_torch("tlserve.runtime.eager"), "weights", "float32"),
}


def load_backend(
    bundle: Bundle, name: str, device: Device = "cpu", threads: int | None = None
) -> Backend:
    """Load a bundle into a backend.

    Args:
        bundle: The bundle; the hash of the file that is loaded is compared.
        name: One of :data:`BACKENDS`.
        device: Where to run. What is asked for is what runs, or an error.
        threads: Threads for one batch on the CPU. By default one a processor, for whoever runs a
            batch at a time and nothing beside it: where the library can, they wait for each other
            in a loop while it runs.

    Raises:
        UsageError: There is no such backend.
        MissingDependencyError: Its library is not installed.
        BundleError: The bundle lacks the file that this backend runs, or it was altered.
        DeviceError: The device cannot be used; ProcessorError: the processor lacks what it needs.
    """
    library = check_backend(name).library
    if device not in library.devices:
        raise DeviceError(
            f"The backend {name!r} runs on {', '.join(library.devices)}, not on {device}.",
            hint=f"Use --device {library.devices[0]}, or a file that runs on {device}: ONNX's.",
        )
    backend: Backend = import_library(name).load(bundle, name, device, threads)
    return backend


def import_library(name: str) -> ModuleType:
    """Import the module that loads files for a backend, and its library with it.

    Raises:
        UsageError: There is no such backend.
        MissingDependencyError: Its library is not installed.
    """
    library = check_backend(name).library
    try:
        return importlib.import_module(library.module)
    except ModuleNotFoundError as error:
        extra = library.extra
        raise MissingDependencyError(
            f"The backend {name!r} needs the library {error.name!r}, which is not installed.",
            hint=f"Install it with `pip install 'tlserve[{extra}]'`"
            + (" (or [gpu])." if extra == "cpu" else "."),
        ) from error


def check_backend(name: str) -> Runnable:
    """Find a backend in :data:`BACKENDS`.

    Raises:
        UsageError: There is no such backend.
    """
    if name not in BACKENDS:
        raise UsageError(f"Unknown backend {name!r}.", hint=f"Known: {', '.join(BACKENDS)}.")
    return BACKENDS[name]
