"""What is inside a scheduler, and how it gets back to the event loop that waits for it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from service.inference.timing import Timing

Job = TypeVar("Job")
Item = TypeVar("Item")
Result = TypeVar("Result")

logger = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class Entry(Generic[Job, Item, Result]):
    """One item: the job that it is made of, and the future of whoever waits for its result.

    Attributes:
        job: What it is made of; ``None`` when it is made.
        item: What is made of it; ``None`` until then.
        future: Gets the result, and where the time went.
        loop: The event loop of the future.
        since: When it came, was made, or was run.
        timing: Where the time went.
    """

    job: Job | None
    item: Item | None
    future: asyncio.Future[tuple[Result, Timing]]
    loop: asyncio.AbstractEventLoop
    since: float = field(default_factory=time.perf_counter)
    timing: Timing = field(default_factory=Timing)


def deliver(
    entries: Sequence[Entry[Job, Item, Result]], outcomes: Sequence[Result | Exception]
) -> None:
    """Give each entry its result or its error; for any thread."""
    # All items come from the one loop of the process.
    try:
        entries[0].loop.call_soon_threadsafe(_set, entries, outcomes)
    except RuntimeError:
        # The loop is closed: nobody is left to wait for these.
        logger.debug("%d results came after the event loop had ended", len(entries))


def _set(
    entries: Sequence[Entry[Job, Item, Result]], outcomes: Sequence[Result | Exception]
) -> None:
    now = time.perf_counter()
    for entry, outcome in zip(entries, outcomes, strict=True):
        entry.timing.delivery = now - entry.since
        if entry.future.done():
            continue
        if isinstance(outcome, Exception):
            entry.future.set_exception(outcome)
        else:
            entry.future.set_result((outcome, entry.timing))
