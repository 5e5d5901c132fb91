"""With which backend a bundle is run: what was asked for, else what the export chose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from tlserve.bundle import Bundle
from tlserve.bundle.manifest import Serving
from tlserve.runtime.backend import Device, available_processors, check_backend

MAX_BATCH = 32
"""Images in a batch, where nothing was chosen."""


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


def resolve(
    bundle: Bundle,
    backend: str | None = None,
    device: Device | None = None,
    threads: int | None = None,
    max_batch: int | None = None,
) -> Running:
    """Fill in what was not asked for.

    What `tlserve export --auto` chose holds where neither backend nor device is asked for. Else it
    is the ONNX file on the CPU, one thread a processor.

    Raises:
        UsageError: There is no such backend.
    """
    serving: Serving | None = None
    if backend is None and device is None:
        serving = bundle.manifest.serving
    if backend is not None:
        check_backend(backend)
    processors = available_processors()
    chosen_threads = min(serving.threads, processors) if serving else processors
    return Running(
        backend or (serving.backend if serving else "onnx"),
        device or cast("Device", serving.device if serving else "cpu"),
        threads or chosen_threads,
        max_batch or (serving.max_batch if serving else MAX_BATCH),
    )
