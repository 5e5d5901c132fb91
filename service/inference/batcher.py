"""Requests that arrive together run as one batch.

One thread runs the model. Whenever it is free it takes whatever waits, up to the limit: the device
is never idle while work waits and never waits while it could work; a lone request leaves at once.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

logger = logging.getLogger(__name__)


class QueueFullError(Exception):
    """As many items wait as may."""


class BatcherStoppedError(Exception):
    """The batcher takes no more items."""


class ResultCountError(Exception):
    """A batch gave another number of results than it had items: none can be matched to its item."""


class Observer(Protocol):
    """Is told how batches went, from the batcher's thread."""

    def batch_taken(self, waits: Sequence[float]) -> None:
        """Note a new batch: for each of its items the seconds that it waited."""
        ...

    def batch_run(self, seconds: float) -> None:
        """Note how long the model ran."""
        ...


@dataclass(eq=False)
class _Entry(Generic[Item, Result]):
    item: Item
    future: asyncio.Future[Result]
    loop: asyncio.AbstractEventLoop
    arrived: float


class Batcher(Generic[Item, Result]):
    """Runs a function on batches of items that are submitted one at a time.

    Args:
        run: Maps a batch to its results, in order; called from one thread only.
        max_batch: The most items in a batch.
        max_queue: The most items that wait.
        observer: Is told about every batch.
    """

    def __init__(
        self,
        run: Callable[[list[Item]], Collection[Result]],
        *,
        max_batch: int,
        max_queue: int,
        observer: Observer,
    ) -> None:
        self._run = run
        self._max_batch = max_batch
        self._max_queue = max_queue
        self._observer = observer
        self._waiting: deque[_Entry[Item, Result]] = deque()
        self._changed = threading.Condition()
        self._stopped = False
        self._thread = threading.Thread(target=self._work, name="tlserve-inference", daemon=True)

    @property
    def alive(self) -> bool:
        """Whether submitted items will be run."""
        return self._thread.is_alive() and not self._stopped

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Take no more items, run those that wait, and end the thread."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self._thread.join()

    async def submit(self, item: Item) -> Result:
        """Run one item in the next batch that has room for it.

        Raises:
            QueueFullError: Too many items wait already.
            BatcherStoppedError: :meth:`stop` was called.
            Exception: Whatever running this very item raised.
        """
        loop = asyncio.get_running_loop()
        entry: _Entry[Item, Result] = _Entry(item, loop.create_future(), loop, time.perf_counter())
        with self._changed:
            if self._stopped:
                raise BatcherStoppedError
            if len(self._waiting) >= self._max_queue:
                raise QueueFullError
            self._waiting.append(entry)
            self._changed.notify()
        return await entry.future

    def _work(self) -> None:
        while batch := self._next_batch():
            outcomes = self._outcomes([entry.item for entry in batch])
            # All items of a batch come from the one loop of the process.
            try:
                batch[0].loop.call_soon_threadsafe(_deliver, batch, outcomes)
            except RuntimeError:
                # The loop is closed: nobody is left to wait for these.
                logger.debug("%d results came after the event loop had ended", len(batch))

    def _next_batch(self) -> list[_Entry[Item, Result]]:
        """Wait for work; an empty list says that there will be none."""
        with self._changed:
            while True:
                batch: list[_Entry[Item, Result]] = []
                while self._waiting and len(batch) < self._max_batch:
                    entry = self._waiting.popleft()
                    # Whoever has left in the meantime is not worth a place.
                    if not entry.future.cancelled():
                        batch.append(entry)
                if batch:
                    break
                if self._stopped:
                    return []
                self._changed.wait()
        now = time.perf_counter()
        self._observer.batch_taken([now - entry.arrived for entry in batch])
        return batch

    def _outcomes(self, items: list[Item]) -> list[Result | Exception]:
        try:
            return list(self._checked_run(items))
        except Exception as error:  # noqa: BLE001 - it goes to whoever submitted the item
            if len(items) == 1:
                return [error]
            logger.warning(
                "A batch of %d failed; running its items one by one: %r", len(items), error
            )
        return [outcome for item in items for outcome in self._outcomes([item])]

    def _checked_run(self, items: list[Item]) -> Collection[Result]:
        started = time.perf_counter()
        results = self._run(items)
        self._observer.batch_run(time.perf_counter() - started)
        if len(results) != len(items):
            raise ResultCountError(f"{len(results)} results for {len(items)} items")
        return results


def _deliver(batch: list[_Entry[Item, Result]], outcomes: list[Result | Exception]) -> None:
    for entry, outcome in zip(batch, outcomes, strict=True):
        if entry.future.done():
            continue
        if isinstance(outcome, Exception):
            entry.future.set_exception(outcome)
        else:
            entry.future.set_result(outcome)
