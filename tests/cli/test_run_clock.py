"""The estimate of how long a run will take yet."""

from __future__ import annotations

from tlserve.cli.run_clock import RunClock


def test_nothing_is_said_before_anything_is_known() -> None:
    assert RunClock(1, 10, began=100.0, pace=None).left(None, now=101.0) is None


def test_the_first_epoch_is_estimated_from_its_own_progress() -> None:
    # Of 40 seconds 10 have passed: 30 are left, and nine epochs more.
    assert RunClock(1, 10, began=100.0, pace=None).left(30.0, now=110.0) == 30 + 9 * 40


def test_later_epochs_take_as_long_as_the_one_before() -> None:
    clock = RunClock(4, 10, began=100.0, pace=20.0)
    assert clock.left(None, now=105.0) == 15 + 6 * 20
    assert clock.left(3.0, now=105.0) == 15 + 6 * 20


def test_an_epoch_that_takes_longer_counts_what_its_task_still_needs() -> None:
    clock = RunClock(10, 10, began=100.0, pace=20.0)
    assert clock.left(12.0, now=130.0) == 12
    assert clock.left(None, now=130.0) == 0
