"""What each of several workers gets of the machine: a GPU of its own, and some processors."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tlserve.runtime.backend import Device
from tlserve.runtime.processors import SHARES

_DRIVER = Path("/proc/driver/nvidia/gpus")
_VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Share:
    """Of one worker.

    Attributes:
        processors: Those that it may use; empty: any.
        gpu: The only one that it sees; ``None``: whatever there is.
        workers: How many share a control group's quota, which no choice of processors divides.
    """

    processors: frozenset[int] = frozenset()
    gpu: str | None = None
    workers: int = 1

    def environment(self) -> dict[str, str]:
        """Give what tells the worker: it sees its GPU alone, as the first and only one."""
        quota = {} if self.workers == 1 else {SHARES: str(self.workers)}
        return quota | ({} if self.gpu is None else {_VISIBLE: self.gpu})


def gpus(environment: Mapping[str, str], driver: Path = _DRIVER) -> list[str]:
    """List the GPUs that may be used, as ``CUDA_VISIBLE_DEVICES`` names them.

    Without a library of CUDA, which costs seconds to load: from that variable, else the driver.
    """
    named = environment.get(_VISIBLE)
    if named is not None:
        return [gpu.strip() for gpu in named.split(",") if gpu.strip()]
    return [str(number) for number in range(len(list(driver.iterdir())))] if driver.is_dir() else []


def shares(
    workers: int | None,
    device: Device,
    environment: Mapping[str, str],
    processors: frozenset[int] | None = None,
) -> list[Share]:
    """Divide the machine.

    Args:
        workers: How many there will be; ``None``: one for each GPU, or one on the CPU.
        device: What they run on.
        environment: Says which GPUs may be used.
        processors: What is divided; what this process may use, unless given.
    """
    found = gpus(environment) if device == "cuda" else []
    count = workers or max(1, len(found))
    if count == 1 and len(found) < 2:
        return [Share()]
    if processors is None:
        processors = frozenset(os.sched_getaffinity(0))
    ordered = sorted(processors)
    return [
        Share(
            # With fewer of them than workers, all share all.
            frozenset(ordered[n * len(ordered) // count : (n + 1) * len(ordered) // count])
            if count <= len(ordered)
            else frozenset(),
            found[n % len(found)] if found else None,
            count,
        )
        for n in range(count)
    ]
