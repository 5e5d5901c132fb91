"""With which backend a bundle is run: what was asked for, else what the export chose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from tlserve.bundle import Bundle
from tlserve.bundle.manifest import Serving
from tlserve.runtime.backend import Device, check_backend
from tlserve.runtime.processors import available_processors

MAX_BATCH: dict[Device, int] = {"cpu": 4, "cuda": 32}
"""Images in a batch, where nothing was chosen; a processor gains nothing by more."""


@dataclass(frozen=True)
class Running:
    """How a bundle is run.

    Attributes:
        backend: One of :data:`tlserve.runtime.backend.BACKENDS`.
        device: Where.
        threads: Threads for one batch on the CPU.
        max_batch: The most images in a batch.
    """

    backend: str
    device: Device
    threads: int
    max_batch: int

    @property
    def lanes(self) -> int:
        """How many batches run at once; see :func:`lanes`."""
        return lanes(self.device, self.threads)


def lanes(device: Device, threads: int) -> int:
    """Tell how many batches of so many threads a device runs at once.

    On the CPU several batches side by side, each on a thread of its own, answer more images than
    one batch on all processors, whose threads wait for each other in every layer.
    """
    return max(1, available_processors() // threads) if device == "cpu" else 1


def resolve(
    bundle: Bundle,
    backend: str | None = None,
    device: Device | None = None,
    threads: int | None = None,
    max_batch: int | None = None,
) -> Running:
    """Fill in what was not asked for.

    What `tlserve export --auto` chose holds where neither backend nor device is asked for. Else it
    is the ONNX file on the CPU, a thread for each batch.

    Raises:
        UsageError: There is no such backend.
    """
    serving: Serving | None = None
    if backend is None and device is None:
        serving = bundle.manifest.serving
    if backend is not None:
        check_backend(backend)
    running_on = device or cast("Device", serving.device if serving else "cpu")
    return Running(
        backend or (serving.backend if serving else "onnx"),
        running_on,
        threads or (min(serving.threads, available_processors()) if serving else 1),
        max_batch or (serving.max_batch if serving else MAX_BATCH[running_on]),
    )
