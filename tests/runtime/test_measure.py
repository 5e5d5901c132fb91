"""Measuring: what is counted, and that wrong answers under load are found."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from tlserve.bundle.manifest import Precision
from tlserve.errors import ParityError
from tlserve.runtime.measure import Subject, measure

IMAGES = np.random.default_rng(0).standard_normal((5, 3, 4, 4)).astype(np.float32)


class Slow:
    """A backend that takes a time for a batch and another for each image."""

    name = "slow"
    device = "cpu"
    precision: Precision = "float32"
    description: str | None = None

    def __init__(self, batch: float = 0.0, image: float = 0.0) -> None:
        self._seconds = batch, image
        self.sizes: list[int] = []

    def logits(self, batch: Any) -> Any:
        self.sizes.append(len(batch))
        time.sleep(self._seconds[0] + self._seconds[1] * len(batch))
        return batch.reshape(len(batch), -1)[:, :3]


class DependsOnTheBatch(Slow):
    def logits(self, batch: Any) -> Any:
        return super().logits(batch) + (0.5 if len(batch) == 4 else 0.0)


class NotANumber(Slow):
    def logits(self, batch: Any) -> Any:
        return super().logits(batch) * (np.nan if len(batch) == 4 else 1.0)


def test_speed_and_latency_are_those_of_the_backend() -> None:
    backend = Slow(batch=0.01, image=0.002)
    steps = []
    one, four = measure(
        [Subject(backend, 2)],
        IMAGES,
        [1, 4],
        rounds=2,
        seconds=0.1,
        advance=lambda: steps.append(1),
    )
    assert (one.backend, one.device, one.threads, one.batch) == ("slow", "cpu", 2, 1)
    assert four.batch == 4
    # Sleeping takes longer than asked for, never shorter.
    assert 12 <= one.p50_ms <= one.p99_ms
    assert 18 <= four.p50_ms <= four.p99_ms
    assert 10 < one.images_per_second <= 1 / 0.012
    assert 50 < four.images_per_second <= 4 / 0.018
    assert one.images_per_second == pytest.approx(1e3 / one.p50_ms, rel=0.5)
    assert len(steps) == 4
    assert set(backend.sizes) == {1, 4}


def test_streams_run_side_by_side() -> None:
    (alone,) = measure([Subject(Slow(batch=0.02), 1)], IMAGES, [1], rounds=2, seconds=0.2)
    (three,) = measure([Subject(Slow(batch=0.02), 1, 3)], IMAGES, [1], rounds=2, seconds=0.2)
    assert three.streams == 3
    assert alone.images_per_second <= 50
    # Three sleep at once; the processor has next to nothing to do.
    assert alone.images_per_second < three.images_per_second <= 150
    assert three.p50_ms >= 20


@pytest.mark.parametrize("backend", [DependsOnTheBatch(), NotANumber()])
def test_another_answer_under_load_is_an_error(backend: Slow) -> None:
    with pytest.raises(ParityError, match="in a batch of 4 than alone"):
        measure([Subject(backend, 1)], IMAGES, [1, 4], rounds=1, seconds=0.01)
