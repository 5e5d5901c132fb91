"""Who does what next: a few threads share decoding and batches of inference.

Each item is prepared on its own, so that a bad one never meets a batch, and clients have turns, so
that one who sends many keeps nobody else waiting for all of them. What is prepared when a
lane is free runs as one batch. A thread that is free does whatever is most useful: it runs what is
ready if it can, else it prepares an item. No thread waits while there is work, a lone item leaves
at once, and where threads are about as many as processors they hardly compete for them, which costs
a tenth of the throughput on a CPU.

What a thread takes at once is a group: one batch, or, where many wait and batches are over soon,
several, one after another, whose items are answered together.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Collection
from typing import Generic

from service.inference.entries import Entry, Item, Job, Result, deliver
from service.inference.plan import Observer, Plan
from service.inference.timing import Timing
from service.inference.turns import Turns

logger = logging.getLogger(__name__)

_MEMORY = 0.95
"""How much of what was done before a group ended still counts for the speed of late."""


class SchedulerStoppedError(Exception):
    """The scheduler takes no more items."""


class ResultCountError(Exception):
    """A batch gave another number of results than it had items: none can be matched to its item."""


class Scheduler(Generic[Job, Item, Result]):
    """Prepares jobs one at a time and runs the prepared items in batches.

    Args:
        prepare: Makes a job's item; may note in the timing where the time went.
        run: Maps a batch to its results, in order; told whether nothing else is in the scheduler.
        plan: How many threads do what.
        observer: Is told about everything.
    """

    def __init__(
        self,
        prepare: Callable[[Job, Timing], Item],
        run: Callable[[list[Item], bool], Collection[Result]],
        plan: Plan,
        observer: Observer,
    ) -> None:
        self._prepare = prepare
        self._run = run
        self._plan = plan
        self._observer = observer
        self._waiting: Turns[Entry[Job, Item, Result]] = Turns()
        self._ready: deque[Entry[Job, Item, Result]] = deque()
        self._most = plan.max_batch
        """The most items in a group."""
        self._changed = threading.Condition()
        self._running = 0
        self._idle = 0
        self._inside = 0
        self._stopped = False
        self._last_end = 0.0
        # Of late, in the seconds when there was something to do. Their sums, for the mean of each
        # group's own speed says little where groups differ in size and lanes end side by side.
        self._seconds = self._done = 0.0
        self._threads = [
            threading.Thread(target=self._work, name=f"tlserve-worker-{number}", daemon=True)
            for number in range(plan.workers)
        ]

    @property
    def alive(self) -> bool:
        """Whether submitted items will be run."""
        return not self._stopped and all(thread.is_alive() for thread in self._threads)

    @property
    def depth(self) -> int:
        """How many items are inside: they wait, are being prepared, or run."""
        return self._inside

    @property
    def waiting(self) -> int:
        """How many items wait to be prepared, or for their batch."""
        return len(self._waiting) + len(self._ready)

    @property
    def seconds_each(self) -> float:
        """How many seconds each item took of late, all threads together; 0: not known."""
        return self._seconds / self._done if self._done else 0.0

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Take no more items, finish those that are inside, and end the threads."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    async def submit(self, job: Job, client: str = "") -> tuple[Result, Timing]:
        """Prepare a job and run it in the next batch that has room for it.

        Args:
            job: What its item is made of.
            client: Whose turn it takes.

        Raises:
            SchedulerStoppedError: :meth:`stop` was called.
            Exception: Whatever preparing or running this very job raised.
        """
        return await self._enter(job, None, client)

    async def submit_prepared(self, item: Item, client: str = "") -> tuple[Result, Timing]:
        """Likewise for an item that needs no preparing."""
        return await self._enter(None, item, client)

    async def _enter(
        self, job: Job | None, item: Item | None, client: str
    ) -> tuple[Result, Timing]:
        loop = asyncio.get_running_loop()
        entry: Entry[Job, Item, Result] = Entry(job, item, loop.create_future(), loop)
        with self._changed:
            if self._stopped:
                raise SchedulerStoppedError
            if not self._inside:
                self._last_end = entry.since
            self._inside += 1
            self._waiting.append(client, entry)
            self._changed.notify()
        return await entry.future

    def _work(self) -> None:
        while work := self._next():
            if isinstance(work, list):
                self._run_group(work)
            else:
                self._prepare_one(work)

    def _next(
        self,
    ) -> list[Entry[Job, Item, Result]] | Entry[Job, Item, Result] | None:
        """Wait for something to do; ``None`` says that there will be nothing more."""
        with self._changed:
            while True:
                self._tidy()
                if group := self._group():
                    return group
                if self._waiting and self._room:
                    return self._waiting.popleft()
                if self._stopped and not self._waiting and not self._ready:
                    return None
                self._idle += 1
                self._changed.wait()
                self._idle -= 1

    @property
    def _room(self) -> bool:
        """Whether another item may be prepared.

        They take much more memory than jobs: not many more than run soon are made.
        """
        return len(self._ready) < 2 * self._most * self._plan.lanes

    def _tidy(self) -> None:
        """See that what is first in each queue is worth its turn."""
        # Whoever has left in the meantime is not worth the work, nor is waiting for it.
        while self._ready and self._ready[0].future.cancelled():
            self._ready.popleft()
            self._inside -= 1
        while self._waiting:
            first = self._waiting.first
            if first.future.cancelled():
                self._waiting.popleft()
                self._inside -= 1
            elif first.item is not None and self._room:
                # It came prepared.
                self._ready.append(self._waiting.popleft())
            else:
                return

    def _group(self) -> list[Entry[Job, Item, Result]]:
        """Take what one thread can run now; nothing if there is nothing, or no lane for it."""
        plan, ready = self._plan, self._ready
        if not ready or self._running >= plan.lanes:
            return []
        full = self._most
        if plan.patience:
            # Each lane has a share of what is inside, and half of one is left over: the next group
            # forms meanwhile.
            full = min(full, max(1, 2 * self._inside // (2 * plan.lanes + 1)))
            waited = time.perf_counter() - ready[0].since
            if self._waiting and len(ready) < full and waited < plan.patience:
                return []
        # Others that are idle get their share of what is there.
        lanes = min(plan.lanes - self._running, self._idle + 1)
        most = min(full, -(-len(ready) // lanes))
        group: list[Entry[Job, Item, Result]] = []
        while ready and len(group) < most:
            entry = ready.popleft()
            if entry.future.cancelled():
                self._inside -= 1
            else:
                group.append(entry)
        if not group:
            # The last of them left this very moment, and no lane is taken.
            return group
        self._running += 1
        if self._idle and (ready or self._waiting):
            # There is room for what was held back, and a share for another lane.
            self._changed.notify(self._idle)
        return group

    def _prepare_one(self, entry: Entry[Job, Item, Result]) -> None:
        now = time.perf_counter()
        entry.timing.queue = now - entry.since
        assert entry.job is not None  # noqa: S101 - it came through `submit`
        try:
            entry.item = self._prepare(entry.job, entry.timing)
        except Exception as error:  # noqa: BLE001 - it goes to whoever submitted the job
            with self._changed:
                self._inside -= 1
            deliver([entry], [error])
            return
        timing = entry.timing
        self._observer.prepared(timing.queue, timing.decode, timing.preprocess)
        entry.job = None
        entry.since = time.perf_counter()
        with self._changed:
            # Nobody need be woken for it: this thread looks for work next.
            self._ready.append(entry)

    def _run_group(self, group: list[Entry[Job, Item, Result]]) -> None:
        alone, size = self._inside == 1, self._plan.max_batch
        outcomes: list[Result | Exception] = []
        for first in range(0, len(group), size):
            outcomes += self._run_batch(group[first : first + size], alone)
        now = time.perf_counter()
        with self._changed:
            self._running -= 1
            self._inside -= len(group)
            self._seconds = _MEMORY * self._seconds + now - self._last_end
            self._done = _MEMORY * self._done + len(group)
            self._last_end = now
            self._most = self._plan.most_in_group(self.seconds_each)
            if self._stopped:
                self._changed.notify_all()
        deliver(group, outcomes)

    def _run_batch(
        self, batch: list[Entry[Job, Item, Result]], alone: bool
    ) -> list[Result | Exception]:
        began = time.perf_counter()
        waits = [began - entry.since for entry in batch]
        self._observer.batch_taken(waits)
        items = [entry.item for entry in batch if entry.item is not None]
        outcomes = self._outcomes(items, alone)
        ended = time.perf_counter()
        for entry, wait in zip(batch, waits, strict=True):
            entry.since = ended
            entry.timing.batch_wait = wait
            entry.timing.batch = len(batch)
            entry.timing.inference = ended - began
        return outcomes

    def _outcomes(self, items: list[Item], alone: bool) -> list[Result | Exception]:
        try:
            return list(self._checked_run(items, alone))
        except Exception as error:  # noqa: BLE001 - it goes to whoever submitted the item
            if len(items) == 1:
                return [error]
            logger.warning("A batch of %d failed; running its halves: %r", len(items), error)
        # Halves rather than single items: what was too much for the memory may fit in two parts.
        middle = len(items) // 2
        return [
            outcome
            for half in (items[:middle], items[middle:])
            for outcome in self._outcomes(half, alone=False)
        ]

    def _checked_run(self, items: list[Item], alone: bool) -> Collection[Result]:
        started = time.perf_counter()
        results = self._run(items, alone)
        self._observer.batch_run(time.perf_counter() - started)
        if len(results) != len(items):
            raise ResultCountError(f"{len(results)} results for {len(items)} items")
        return results
