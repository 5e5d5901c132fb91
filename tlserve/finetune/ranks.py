"""The processes of a run: one, or several that torchrun started on one or more machines.

Several are held together by Accelerate (https://huggingface.co/docs/accelerate), over NCCL where
there are GPUs and Gloo elsewhere.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import distributed, nn
from torch.distributed import PrefixStore  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from tlserve.errors import DeviceError, TlserveError, UsageError

if TYPE_CHECKING:
    from accelerate import Accelerator

T = TypeVar("T")

_PATIENCE = datetime.timedelta(days=1)
"""How long a process waits for the others: one may probe, or write a bundle, meanwhile."""


class Ranks:
    """The one process of a run that has no other.

    Attributes:
        rank: This process's number, from 0.
        count: How many there are.
        local_rank: Its number among those on its machine.
        local_count: How many those are.
        node: Its machine's number.
        restarted: Whether torchrun has started the processes again, after one was lost.
    """

    rank = local_rank = node = 0
    count = local_count = 1
    restarted = False

    @property
    def main(self) -> bool:
        """Whether it is the one that decides, writes and speaks."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait until all are here."""

    def broadcast(self, value: T) -> T:
        """Give the value that the main process has."""
        return value

    def gather(self, value: T) -> list[T]:
        """Give the values of all, in the order of their ranks."""
        return [value]

    def any(self, flags: Sequence[bool]) -> list[bool]:
        """Tell for each flag whether any process has it."""
        return list(flags)

    def together(self, action: Callable[[], T], errors: tuple[type[Exception], ...]) -> T:
        """Do something in each process; if it fails in one of them, it fails in all.

        Args:
            action: What to do.
            errors: How it may fail.
        """
        del errors
        return action()

    def averaging(self, network: nn.Module) -> nn.Module:
        """Make a network's backward pass average gradients over the processes."""
        return network

    def share_buffers(self, model: nn.Module) -> None:
        """Give each process the main one's buffers, such as batch normalisation's statistics."""

    def interleaved(self, parts: Sequence[T]) -> list[T]:
        """Bring together what each process made of every ``count``-th batch, in their order."""
        columns = zip_longest(*self.gather(list(parts)))
        return [part for part in chain.from_iterable(columns) if part is not None]


class _Together(Ranks):
    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self.rank = accelerator.process_index
        self.count = accelerator.num_processes
        self.local_rank = accelerator.local_process_index
        self.local_count = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        self.node = int(os.environ.get("GROUP_RANK", "0"))
        self.restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0

    def wait(self) -> None:
        self._accelerator.wait_for_everyone()

    def broadcast(self, value: T) -> T:
        from accelerate.utils import broadcast_object_list

        values = [value]
        broadcast_object_list(values)
        return values[0]

    def gather(self, value: T) -> list[T]:
        from accelerate.utils import gather_object

        values: list[T] = gather_object([value])
        return values

    def any(self, flags: Sequence[bool]) -> list[bool]:
        device = self._accelerator.device
        numbers = torch.tensor(flags, dtype=torch.float32, device=device)
        summed = self._accelerator.reduce(numbers, "sum")
        return [bool(number) for number in summed.tolist()]

    def together(self, action: Callable[[], T], errors: tuple[type[Exception], ...]) -> T:
        failed: Exception | None = None
        try:
            result = action()
        except errors as error:
            failed = error
        reasons = self.gather(None if failed is None else str(failed))
        if failed is not None:
            raise failed
        other = next((reason for reason in reasons if reason is not None), None)
        if other is not None:
            raise errors[0](other)
        return result

    def averaging(self, network: nn.Module) -> nn.Module:
        prepared: nn.Module = self._accelerator.prepare_model(network)
        return prepared

    def share_buffers(self, model: nn.Module) -> None:
        for buffer in model.buffers():
            distributed.broadcast(buffer, 0)


ALONE = Ranks()


@contextmanager
def joined(device: str) -> Iterator[Ranks]:
    """Join the other processes of a run, if torchrun started this one, and leave them.

    Args:
        device: ``auto``, ``cpu`` or ``cuda``.

    Yields:
        The processes.

    Raises:
        UsageError: Accelerate is not installed.
        DeviceError: There are more processes on this machine than GPUs.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE
        return
    try:
        from accelerate import Accelerator
    except ImportError as error:
        raise UsageError(
            "Several processes need Accelerate, which is not installed.",
            hint="pip install 'tlserve[distributed]'",
        ) from error
    gpus = 0 if device == "cpu" else torch.cuda.device_count()
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if gpus and local > gpus:
        raise DeviceError(
            f"torchrun started {local} processes on this machine, which has {gpus} GPUs.",
            hint=f"Use --nproc-per-node={gpus}, or --device cpu.",
        )
    _connect("nccl" if gpus else "gloo")
    accelerator = Accelerator(cpu=not gpus)
    yield _Together(accelerator)
    # Not after an error: whoever is left waits for this process in another place.
    accelerator.end_training()


def _connect(backend: str) -> None:
    store, rank, count = next(rendezvous("env://"))
    # The store outlives processes that are started again, and with it the addresses of those that
    # were lost: each start has names of its own in it.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    distributed.init_process_group(
        backend,
        store=PrefixStore(f"start {attempt}", store),
        rank=rank,
        world_size=count,
        timeout=_PATIENCE,
    )


@contextmanager
def naming_lost_ranks(ranks: Ranks) -> Iterator[None]:
    """Turn what the loss of another process raises into an error that says so.

    Raises:
        TlserveError: Another process of the run has gone, which ends this one, too.
    """
    try:
        yield
    except RuntimeError as error:
        text = " ".join(str(error).split())
        lost = isinstance(error, distributed.DistError) or "gloo" in text.lower()
        if ranks.count == 1 or not lost:
            raise
        raise TlserveError(
            f"Another process of this run was lost: {text[:200]}",
            hint="torchrun --max-restarts=N starts them again, and they go on from the last state.",
        ) from error
