from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager

import pytest

from service.inference.batcher import Batcher, BatcherStoppedError, QueueFullError, ResultCountError

Run = Callable[[list[int]], Collection[int]]


class Record:
    """Notes the sizes of the batches."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def batch_taken(self, waits: Sequence[float]) -> None:
        assert all(wait >= 0 for wait in waits)
        self.sizes.append(len(waits))

    def batch_run(self, seconds: float) -> None:
        assert seconds >= 0


class Gate:
    """A model whose first batch waits until it is let through, so that others pile up behind it."""

    def __init__(self, run: Run) -> None:
        self.entered = threading.Event()
        self.open = threading.Event()
        self._run = run

    def __call__(self, items: list[int]) -> Collection[int]:
        self.entered.set()
        assert self.open.wait(10)
        return self._run(items)


@contextmanager
def batching(
    run: Run, *, max_batch: int = 8, max_queue: int = 100
) -> Iterator[tuple[Batcher[int, int], Record]]:
    record = Record()
    batcher = Batcher(run, max_batch=max_batch, max_queue=max_queue, observer=record)
    batcher.start()
    try:
        yield batcher, record
    finally:
        batcher.stop()


def squares(items: list[int]) -> list[int]:
    return [item * item for item in items]


async def submit_behind(
    gate: Gate, batcher: Batcher[int, int], items: list[int]
) -> list[int | BaseException]:
    """Submit the first item, wait until it runs, submit the others, then open the gate."""
    first = asyncio.create_task(batcher.submit(items[0]))
    await asyncio.to_thread(gate.entered.wait, 10)
    others = [asyncio.create_task(batcher.submit(item)) for item in items[1:]]
    await asyncio.sleep(0)
    gate.open.set()
    return await asyncio.gather(first, *others, return_exceptions=True)


def test_each_item_gets_its_own_result_and_waiting_items_share_batches() -> None:
    gate = Gate(squares)
    with batching(gate, max_batch=8) as (batcher, record):
        results = asyncio.run(submit_behind(gate, batcher, list(range(20))))
    assert results == squares(list(range(20)))
    assert record.sizes == [1, 8, 8, 3]


def test_a_lone_item_leaves_at_once() -> None:
    with batching(squares) as (batcher, record):
        assert asyncio.run(batcher.submit(7)) == 49
    assert record.sizes == [1]


def test_only_the_item_that_cannot_be_run_fails() -> None:
    def run(items: list[int]) -> list[int]:
        if 5 in items:
            raise ValueError("five")
        return squares(items)

    gate = Gate(run)
    with batching(gate) as (batcher, _):
        results = asyncio.run(submit_behind(gate, batcher, list(range(9))))
    failed = results.pop(5)
    assert isinstance(failed, ValueError)
    assert results == squares([0, 1, 2, 3, 4, 6, 7, 8])


def test_results_that_cannot_be_matched_to_their_items_reach_nobody() -> None:
    gate = Gate(lambda items: squares(items)[: max(1, len(items) - 1)])
    with batching(gate) as (batcher, _):
        assert asyncio.run(submit_behind(gate, batcher, [0, 1, 2, 3])) == [0, 1, 4, 9]
    with batching(lambda _: []) as (batcher, _), pytest.raises(ResultCountError, match="0 results"):
        asyncio.run(batcher.submit(1))


def test_a_full_queue_refuses() -> None:
    gate = Gate(squares)
    with batching(gate, max_queue=3) as (batcher, _):
        results = asyncio.run(submit_behind(gate, batcher, [0, 1, 2, 3, 4, 5]))
    assert results[:4] == [0, 1, 4, 9]
    assert [type(result) for result in results[4:]] == [QueueFullError, QueueFullError]


def test_who_leaves_takes_no_place_and_harms_nobody() -> None:
    gate = Gate(squares)

    async def scenario(batcher: Batcher[int, int]) -> list[int]:
        running = asyncio.create_task(batcher.submit(1))
        await asyncio.to_thread(gate.entered.wait, 10)
        waiting = [asyncio.create_task(batcher.submit(item)) for item in (2, 3)]
        await asyncio.sleep(0)
        running.cancel()
        waiting[0].cancel()
        await asyncio.sleep(0)
        gate.open.set()
        return [await waiting[1], await batcher.submit(4)]

    with batching(gate) as (batcher, record):
        assert asyncio.run(scenario(batcher)) == [9, 16]
    assert record.sizes == [1, 1, 1]


def test_stopping_runs_what_waits_and_takes_no_more() -> None:
    gate = Gate(squares)

    async def scenario(batcher: Batcher[int, int]) -> list[int]:
        tasks = [asyncio.create_task(batcher.submit(item)) for item in (1, 2, 3)]
        await asyncio.to_thread(gate.entered.wait, 10)
        stopping = asyncio.create_task(asyncio.to_thread(batcher.stop))
        while batcher.alive:
            await asyncio.sleep(0.001)
        with pytest.raises(BatcherStoppedError):
            await batcher.submit(4)
        gate.open.set()
        await stopping
        return await asyncio.gather(*tasks)

    with batching(gate) as (batcher, _):
        assert asyncio.run(scenario(batcher)) == [1, 4, 9]
