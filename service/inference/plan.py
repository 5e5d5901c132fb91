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
        patient: Where items wait to be prepared, prepare them until a batch is full before it runs,
            and leave as many items as a batch has to form the next: right where preparing and
            running share the same processors. Else a batch starts as soon as a lane is free, with
            all that is ready, for the device must not wait.
    """

    workers: int
    lanes: int
    max_batch: int
    patient: bool
