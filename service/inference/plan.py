"""How a scheduler divides its work, and who is told how it went."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class Observer(Protocol):
    """Is told how work went, from the threads that do it."""

    def prepared(self, queue: float, decode: float, preprocess: float) -> None:
        """Note an item that was prepared, and where its time went, in seconds."""
        ...

    def batch_taken(self, waits: Sequence[float]) -> None:
        """Note a new batch: for each of its items the seconds that it waited, prepared."""
        ...

    def batch_run(self, seconds: float) -> None:
        """Note how long the model ran."""
        ...


@dataclass(frozen=True)
class Plan:
    """How many threads do what.

    Attributes:
        workers: Threads in all.
        lanes: The most batches that run at once.
        max_batch: The most items in a batch.
        patience: The most seconds for which what is ready is kept back for what follows soon: an
            item that is prepared, until a group is full; a result, until those of its group are
            there, too. Right where preparing and running share the same processors: whoever is
            woken in the middle of others' work finds nothing of its own in their caches. 0: a batch
            starts as soon as a lane is free, with all that is ready, for the device must not wait.
    """

    workers: int
    lanes: int
    max_batch: int
    patience: float

    def most_in_group(self, seconds_each: float) -> int:
        """Tell how many items a thread may take at once: as many batches as patience allows.

        Args:
            seconds_each: How long an item takes of late, all lanes together; 0: not known.
        """
        seconds = seconds_each * self.lanes * self.max_batch
        return self.max_batch * max(1, int(self.patience / seconds) if seconds else 1)
