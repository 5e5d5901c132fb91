"""Which thread does what: with work that says in which order it was done."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager

import pytest

from service.inference.plan import Plan
from service.inference.scheduler import ResultCountError, Scheduler, SchedulerStoppedError
from service.inference.timing import Timing

Run = Callable[[list[int], bool], Collection[int]]


class Record:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.seconds: list[float] = []
        self.preparations = 0

    def prepared(self, queue: float, decode: float, preprocess: float) -> None:
        assert queue >= 0
        assert decode + preprocess >= 0
        self.preparations += 1

    def batch_taken(self, waits: Sequence[float]) -> None:
        assert all(wait >= 0 for wait in waits)
        self.sizes.append(len(waits))

    def batch_run(self, seconds: float) -> None:
        self.seconds.append(seconds)


class Gate:
    """A model whose first batch waits until it is let through, so that others pile up behind it."""

    def __init__(self, run: Run) -> None:
        self.entered = threading.Event()
        self.open = threading.Event()
        self._run = run

    def __call__(self, items: list[int], alone: bool) -> Collection[int]:
        self.entered.set()
        assert self.open.wait(10)
        return self._run(items, alone)


def parsed(job: str, timing: Timing) -> int:
    timing.decode = 0.001
    return int(job)


def squares(items: list[int], _alone: bool = False) -> list[int]:
    return [item * item for item in items]


@contextmanager
def scheduling(
    run: Run,
    *,
    workers: int = 2,
    lanes: int = 1,
    max_batch: int = 8,
    patience: float = 0,
    prepare: Callable[[str, Timing], int] = parsed,
) -> Iterator[tuple[Scheduler[str, int, int], Record]]:
    record = Record()
    plan = Plan(workers, lanes, max_batch, patience)
    scheduler: Scheduler[str, int, int] = Scheduler(prepare, run, plan, record)
    scheduler.start()
    try:
        yield scheduler, record
    finally:
        scheduler.stop()


async def result(scheduler: Scheduler[str, int, int], job: object) -> int:
    return (await scheduler.submit(str(job)))[0]


async def submit_behind(
    gate: Gate, scheduler: Scheduler[str, int, int], jobs: Sequence[object], ready: int
) -> list[int | BaseException]:
    """Submit the first, wait until it runs, submit the others, open when so many are prepared."""
    first = asyncio.create_task(result(scheduler, jobs[0]))
    await asyncio.to_thread(gate.entered.wait, 10)
    others = [asyncio.create_task(result(scheduler, job)) for job in jobs[1:]]
    while len(scheduler._ready) < ready:
        await asyncio.sleep(0.001)
    gate.open.set()
    return await asyncio.gather(first, *others, return_exceptions=True)


def test_each_job_gets_its_own_result_and_what_waits_shares_batches() -> None:
    gate = Gate(squares)
    with scheduling(gate, max_batch=8) as (scheduler, record):
        results = asyncio.run(submit_behind(gate, scheduler, range(17), ready=16))
    assert results == squares(list(range(17)))
    assert record.sizes == [1, 8, 8]
    assert record.preparations == 17


def test_a_lone_job_leaves_at_once_and_the_model_is_told() -> None:
    told = []

    def run(items: list[int], alone: bool) -> list[int]:
        told.append(alone)
        return squares(items)

    gate = Gate(run)
    with scheduling(run) as (scheduler, record):
        assert asyncio.run(result(scheduler, 7)) == 49
    assert record.sizes == [1]
    assert told == [True]
    with scheduling(gate) as (scheduler, record):
        asyncio.run(submit_behind(gate, scheduler, [1, 2, 3], ready=2))
    assert told == [True, True, False]


def test_the_times_say_where_an_image_was() -> None:
    def slow(items: list[int], _: bool) -> list[int]:
        time.sleep(0.02)
        return squares(items)

    with scheduling(slow) as (scheduler, record):
        _, timing = asyncio.run(scheduler.submit("3"))
    assert timing.decode == 0.001
    assert timing.batch == 1
    assert 0.02 <= timing.inference < 1
    assert 0 <= timing.queue < 1
    assert 0 <= timing.batch_wait < 1
    assert 0 <= timing.delivery < 1
    assert timing.total >= 0.021
    assert record.seconds[0] >= 0.02


def test_a_job_that_cannot_be_prepared_meets_no_batch() -> None:
    gate = Gate(squares)
    with scheduling(gate) as (scheduler, record):
        results = asyncio.run(submit_behind(gate, scheduler, [0, 1, "two", 3], ready=2))
        assert scheduler.depth == 0
    assert isinstance(results.pop(2), ValueError)
    assert results == [0, 1, 9]
    assert record.sizes == [1, 2]


def test_only_the_item_that_cannot_be_run_fails_and_the_others_run_in_halves() -> None:
    sizes = []

    def run(items: list[int], _: bool) -> list[int]:
        sizes.append(len(items))
        if 5 in items:
            raise ValueError("five")
        return squares(items)

    gate = Gate(run)
    with scheduling(gate) as (scheduler, _):
        results = asyncio.run(submit_behind(gate, scheduler, range(9), ready=8))
    assert isinstance(results.pop(5), ValueError)
    assert results == squares([0, 1, 2, 3, 4, 6, 7, 8])
    assert sizes == [1, 8, 4, 4, 2, 1, 1, 2] or sizes == [1, 8, 4, 2, 2, 1, 1, 4]


def test_what_is_too_much_for_the_memory_runs_in_parts() -> None:
    def run(items: list[int], _: bool) -> list[int]:
        if len(items) > 3:
            raise MemoryError(f"{len(items)} do not fit")
        return squares(items)

    gate = Gate(run)
    with scheduling(gate) as (scheduler, _):
        results = asyncio.run(submit_behind(gate, scheduler, range(9), ready=8))
    assert results == squares(list(range(9)))


def test_results_that_cannot_be_matched_to_their_items_reach_nobody() -> None:
    gate = Gate(lambda items, _: squares(items)[: max(1, len(items) - 1)])
    with scheduling(gate) as (scheduler, _):
        results = asyncio.run(submit_behind(gate, scheduler, [0, 1, 2, 3], ready=3))
    assert results == [0, 1, 4, 9]
    with (
        scheduling(lambda *_: []) as (scheduler, _),
        pytest.raises(ResultCountError, match="0 results"),
    ):
        asyncio.run(result(scheduler, 1))


def test_who_leaves_takes_no_place_and_harms_nobody() -> None:
    gate = Gate(squares)

    async def scenario(scheduler: Scheduler[str, int, int]) -> list[int]:
        running = asyncio.create_task(result(scheduler, 1))
        await asyncio.to_thread(gate.entered.wait, 10)
        waiting = [asyncio.create_task(result(scheduler, item)) for item in (2, 3)]
        while len(scheduler._ready) < 2:
            await asyncio.sleep(0.001)
        running.cancel()
        waiting[0].cancel()
        await asyncio.sleep(0)
        gate.open.set()
        return [await waiting[1], await result(scheduler, 4)]

    with scheduling(gate) as (scheduler, record):
        assert asyncio.run(scenario(scheduler)) == [9, 16]
        assert scheduler.depth == 0
    assert record.sizes == [1, 1, 1]


def test_who_leaves_at_the_last_moment_takes_no_lane_along() -> None:
    async def scenario(scheduler: Scheduler[str, int, int]) -> int:
        leaving = asyncio.create_task(scheduler.submit_prepared(1))
        await asyncio.sleep(0)
        # As a thread does, and then its client leaves.
        scheduler._tidy()
        leaving.cancel()
        await asyncio.sleep(0)
        assert scheduler._group() == []
        scheduler.start()
        return await asyncio.wait_for(result(scheduler, 7), 5)

    scheduler: Scheduler[str, int, int] = Scheduler(
        parsed, squares, Plan(workers=1, lanes=1, max_batch=4, patience=0), Record()
    )
    assert asyncio.run(scenario(scheduler)) == 49
    assert scheduler.depth == 0
    scheduler.stop()


def test_what_is_ready_does_not_wait_for_jobs_whose_clients_have_left() -> None:
    gate = Gate(squares)

    async def scenario(scheduler: Scheduler[str, int, int]) -> int:
        running = asyncio.create_task(result(scheduler, 1))
        await asyncio.to_thread(gate.entered.wait, 10)
        leaving = [asyncio.create_task(result(scheduler, item)) for item in range(6)]
        ready = asyncio.create_task(scheduler.submit_prepared(7))
        await asyncio.sleep(0)
        for task in leaving:
            task.cancel()
        await asyncio.sleep(0)
        gate.open.set()
        await running
        return (await asyncio.wait_for(ready, 5))[0]

    with scheduling(gate, workers=1, patience=10) as (scheduler, _):
        assert asyncio.run(scenario(scheduler)) == 49
        assert scheduler.depth == 0


def test_lanes_run_side_by_side_and_share_what_is_there() -> None:
    entered, both = [], threading.Event()

    def run(items: list[int], _: bool) -> list[int]:
        entered.append(len(items))
        if len(entered) == 2:
            both.set()
        # With one lane, or with one batch for all, nobody would come to let the first one go.
        assert both.wait(10)
        return squares(items)

    async def scenario(scheduler: Scheduler[str, int, int]) -> list[int]:
        tasks = [asyncio.create_task(result(scheduler, item)) for item in range(4)]
        return await asyncio.gather(*tasks)

    with scheduling(run, lanes=2, max_batch=2, patience=10) as (scheduler, _):
        assert asyncio.run(scenario(scheduler)) == [0, 1, 4, 9]


def all_at_once(scheduler: Scheduler[str, int, int], jobs: int) -> list[tuple[int, Timing]]:
    """Submit so many before any thread can take one."""

    async def scenario() -> list[tuple[int, Timing]]:
        # This thread may take the lock again, for each of them; the others wait for it.
        with scheduler._changed:
            tasks = [asyncio.create_task(scheduler.submit(str(n))) for n in range(jobs)]
            await asyncio.sleep(0)
            assert scheduler.waiting == jobs
        return await asyncio.gather(*tasks)

    return asyncio.run(scenario())


def test_batches_are_filled_while_there_is_something_to_prepare() -> None:
    with scheduling(squares, workers=1, max_batch=4, patience=10) as (scheduler, record):
        all_at_once(scheduler, 6)
    # With one lane, two thirds of six run at once; of the last two, one.
    assert record.sizes[0] == 4
    assert sum(record.sizes) == 6


def test_what_is_prepared_does_not_wait_for_jobs_that_take_long() -> None:
    def slowly(job: str, _: Timing) -> int:
        time.sleep(0.02)
        return int(job)

    with scheduling(squares, workers=1, max_batch=4, patience=0.01, prepare=slowly) as (
        scheduler,
        record,
    ):
        all_at_once(scheduler, 6)
    assert record.sizes[0] == 2
    assert sum(record.sizes) == 6


def test_quick_batches_are_answered_together() -> None:
    def slow(items: list[int], _: bool) -> list[int]:
        time.sleep(0.001)
        return squares(items)

    with scheduling(slow, workers=1, max_batch=1, patience=10) as (scheduler, record):
        # From the first, the scheduler knows that they are quick.
        asyncio.run(result(scheduler, 1))
        results = all_at_once(scheduler, 9)
    assert [value for value, _ in results] == squares(list(range(9)))
    # Each ran by itself.
    assert record.sizes == [1] * 10
    assert {timing.batch for _, timing in results} == {1}
    # Six of nine came together: the first of them waited for five more.
    waits = [timing.delivery for _, timing in results[:6]]
    assert all(wait >= 0.001 * others for wait, others in zip(waits, range(5, -1, -1), strict=True))


def test_slow_batches_are_answered_one_by_one() -> None:
    plan = Plan(workers=2, lanes=2, max_batch=4, patience=0.1)
    # Before anything is known, and where a batch takes as long as may be.
    assert plan.most_in_group(0) == 4
    assert plan.most_in_group(0.0125) == 4
    assert plan.most_in_group(1) == 4
    # Two and three batches of four, which each of two lanes runs in 48 and 32 ms.
    assert plan.most_in_group(0.006) == 8
    assert plan.most_in_group(0.004) == 12
    assert Plan(2, 1, 32, patience=0).most_in_group(0.0001) == 32


def test_prepared_items_do_not_pile_up() -> None:
    gate = Gate(squares)
    with scheduling(gate, workers=4, max_batch=2) as (scheduler, record):

        async def scenario() -> None:
            tasks = [asyncio.create_task(result(scheduler, item)) for item in range(40)]
            await asyncio.to_thread(gate.entered.wait, 10)
            await asyncio.sleep(0.1)
            assert len(scheduler._ready) <= 2 * 2 + 4
            gate.open.set()
            await asyncio.gather(*tasks)

        asyncio.run(scenario())
    assert sum(record.sizes) == 40


def test_the_expected_wait_follows_the_speed() -> None:
    def slow(items: list[int], _: bool) -> list[int]:
        time.sleep(0.01)
        return squares(items)

    async def scenario(scheduler: Scheduler[str, int, int]) -> float:
        assert scheduler.seconds_each == 0
        for _ in range(3):
            await scheduler.submit("1")
        tasks = [asyncio.create_task(scheduler.submit("1")) for _ in range(20)]
        await asyncio.sleep(0)
        expected = scheduler.depth * scheduler.seconds_each
        await asyncio.gather(*tasks)
        assert scheduler.depth == 0
        return expected

    with scheduling(slow, workers=1, max_batch=1) as (scheduler, _):
        # Twenty at ten milliseconds each; sleeping takes longer than asked for, never shorter.
        assert 0.15 < asyncio.run(scenario(scheduler)) < 2


def test_each_client_has_its_turn() -> None:
    gate = Gate(squares)
    order: list[int] = []

    async def asked(scheduler: Scheduler[str, int, int], item: int, client: str) -> None:
        await scheduler.submit(str(item), client)
        order.append(item)

    async def scenario(scheduler: Scheduler[str, int, int]) -> None:
        tasks = [asyncio.create_task(result(scheduler, 1))]
        await asyncio.to_thread(gate.entered.wait, 10)
        many = [asyncio.create_task(asked(scheduler, item, "many")) for item in range(10, 16)]
        await asyncio.sleep(0)
        few = [asyncio.create_task(asked(scheduler, item, "few")) for item in (20, 21)]
        await asyncio.sleep(0)
        gate.open.set()
        await asyncio.gather(*tasks, *many, *few)

    with scheduling(gate, workers=1, max_batch=1) as (scheduler, _):
        asyncio.run(scenario(scheduler))
    # What was prepared while the batch before ran is as many as there are batches to come.
    assert order.index(20) <= 4
    assert order.index(21) <= 6
    assert [item for item in order if item < 20] == list(range(10, 16))


def test_what_came_prepared_has_its_turn_too() -> None:
    gate = Gate(squares)

    async def scenario(scheduler: Scheduler[str, int, int]) -> list[int]:
        order: list[int] = []

        async def tensors(item: int, client: str) -> None:
            await scheduler.submit_prepared(item, client)
            order.append(item)

        running = asyncio.create_task(result(scheduler, 1))
        await asyncio.to_thread(gate.entered.wait, 10)
        tasks = [asyncio.create_task(tensors(item, "many")) for item in range(10, 30)]
        await asyncio.sleep(0)
        tasks.append(asyncio.create_task(tensors(40, "few")))
        await asyncio.sleep(0)
        gate.open.set()
        await asyncio.gather(running, *tasks)
        return order

    with scheduling(gate, workers=1, max_batch=1) as (scheduler, _):
        order = asyncio.run(scenario(scheduler))
    assert order.index(40) <= 4
    assert len(order) == 21


def test_stopping_finishes_what_waits_and_takes_no_more() -> None:
    gate = Gate(squares)

    async def scenario(scheduler: Scheduler[str, int, int]) -> list[int]:
        tasks = [asyncio.create_task(result(scheduler, item)) for item in (1, 2, 3)]
        await asyncio.to_thread(gate.entered.wait, 10)
        stopping = asyncio.create_task(asyncio.to_thread(scheduler.stop))
        while scheduler.alive:
            await asyncio.sleep(0.001)
        with pytest.raises(SchedulerStoppedError):
            await scheduler.submit("4")
        gate.open.set()
        await stopping
        return await asyncio.gather(*tasks)

    with scheduling(gate) as (scheduler, _):
        assert asyncio.run(scenario(scheduler)) == [1, 4, 9]
