"""How fast backends are: images a second and latency, the answers checked meanwhile."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import median

import numpy as np
from numpy.typing import NDArray

from tlserve.errors import ParityError
from tlserve.runtime.backend import Backend
from tlserve.runtime.golden import TOLERANCES

_SETTLE = 0.02
"""Seconds between two measurements: threads of the one before go on looking for work so long."""

_LOOSEST = 1e-2
"""Share of the logits' range; a file agrees with itself better than with the trained model."""


@dataclass(frozen=True)
class Subject:
    """What is measured.

    Attributes:
        backend: Loaded to run a batch with so many threads.
        threads: For one batch.
        streams: Batches that run side by side.
    """

    backend: Backend
    threads: int
    streams: int = 1


@dataclass(frozen=True)
class Measurement:
    """How fast a backend answers batches of a size.

    Attributes:
        backend: Its name.
        device: Where it ran.
        threads: Threads for one batch.
        batch: Images in a batch.
        images_per_second: The median of the rounds.
        p50_ms: Half of the batches took so many milliseconds or less.
        p99_ms: Likewise 99 of 100.
        batches: How many were timed.
        streams: How many ran side by side.
    """

    backend: str
    device: str
    threads: int
    batch: int
    images_per_second: float
    p50_ms: float
    p99_ms: float
    batches: int
    streams: int = 1


def measure(
    subjects: Sequence[Subject],
    images: NDArray[np.float32],
    batch_sizes: Sequence[int],
    *,
    rounds: int = 3,
    seconds: float = 0.3,
    advance: Callable[[], None] = lambda: None,
) -> list[Measurement]:
    """Measure backends side by side: in each round all of them, so that a slow minute hits all.

    Args:
        subjects: What to measure.
        images: Preprocessed, float32 [N, 3, height, width]; taken in turn.
        batch_sizes: Images in a batch.
        rounds: How often each is measured.
        seconds: How long each takes in a round.
        advance: Called after each measurement of a round.

    Returns:
        One for each subject and batch size, in their order.

    Raises:
        ParityError: An answer under load was not the one that the image gets alone.
    """
    cases = [
        _Case(subject, size, answers, images)
        for subject in subjects
        for answers in [_answers(subject.backend, images)]
        for size in batch_sizes
    ]
    for number in range(rounds):
        first = number * len(cases) // rounds
        for case in cases[first:] + cases[:first]:
            time.sleep(_SETTLE)
            case.round(seconds)
            advance()
    return [case.result() for case in cases]


def _answers(backend: Backend, images: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.concatenate([backend.logits(image[None]) for image in images])


class _Case:
    def __init__(
        self,
        subject: Subject,
        size: int,
        answers: NDArray[np.float32],
        images: NDArray[np.float32],
    ) -> None:
        self._subject = subject
        self._size = size
        self._answers = answers
        self._images = images
        share = max(TOLERANCES["float32"], min(TOLERANCES[subject.backend.precision], _LOOSEST))
        self._tolerance = share * float(answers.max() - answers.min())
        self._latencies: list[float] = []
        self._rates: list[float] = []
        self._next = itertools.count()
        self._batch()  # what the first run of a size sets up is not what is measured

    def round(self, seconds: float) -> None:
        """Answer batches for so many seconds, in as many streams as the subject has."""
        if self._subject.streams == 1:
            spent = self._stream(seconds)
            self._latencies += spent
            self._rates.append(self._size * len(spent) / sum(spent))
            return
        started = time.perf_counter()
        with ThreadPoolExecutor(self._subject.streams) as streams:
            found = list(streams.map(self._stream, [seconds] * self._subject.streams))
        together = time.perf_counter() - started
        self._latencies += [latency for stream in found for latency in stream]
        self._rates.append(self._size * sum(map(len, found)) / together)

    def _stream(self, seconds: float) -> list[float]:
        """Answer batches for so many seconds; the seconds of each."""
        spent: list[float] = []
        end = time.perf_counter() + seconds
        while not spent or time.perf_counter() < end:
            spent.append(self._batch())
        return spent

    def result(self) -> Measurement:
        backend = self._subject.backend
        p50, p99 = np.percentile(self._latencies, [50, 99]) * 1e3
        return Measurement(
            backend.name,
            backend.device,
            self._subject.threads,
            self._size,
            round(median(self._rates), 2),
            round(float(p50), 3),
            round(float(p99), 3),
            len(self._latencies),
            self._subject.streams,
        )

    def _batch(self) -> float:
        """Answer one batch, compare, and give the seconds of the answering."""
        # Counting is one step, so that streams take other images than each other.
        which = (np.arange(self._size) + next(self._next) * self._size) % len(self._images)
        batch = self._images[which]
        started = time.perf_counter()
        found = self._subject.backend.logits(batch)
        spent = time.perf_counter() - started
        difference = np.abs(found - self._answers[which]).max()
        # Written so that it is true for what is no number, too.
        if not difference <= self._tolerance:
            raise ParityError(
                f"The {self._subject.backend.name} backend gives an image other logits in a batch "
                f"of {self._size} than alone: they differ by {difference:.3g}; "
                f"{self._tolerance:.3g} is allowed.",
                hint="Look for the cause with `tlserve verify`.",
            )
        return spent
