"""Which threads and batches answer most images on this machine: from files to answers, measured.

Measured is the service's own way, all of it but HTTP, with as many images in flight as a busy
service has: decoding and inference share the processors, so that neither can be measured alone.
"""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from prometheus_client import CollectorRegistry

from service.inference.engine import Engine
from service.observe.metrics import Metrics
from service.settings import Settings
from tlserve.bundle import Bundle
from tlserve.data.split import read_part
from tlserve.runtime import Predictor
from tlserve.runtime.backend import Device
from tlserve.runtime.processors import available_processors

BATCHES: dict[Device, tuple[int, ...]] = {"cpu": (1, 4, 16), "cuda": (8, 32, 64)}
ROUNDS = 3
_SECONDS = 1.0
_IN_FLIGHT = 32
_IMAGES = 64
_AS_FAST = 0.97
"""From this share of the highest speed on, smaller batches are preferred: nobody waits so long."""


@dataclass(frozen=True)
class Tuned:
    """How fast one way of running is.

    Attributes:
        threads: For one batch.
        max_batch: The most images in one.
        images_per_second: From files to answers; the median of the rounds.
    """

    threads: int
    max_batch: int
    images_per_second: float


def tuning_images(bundle: Bundle) -> tuple[list[Path], str]:
    """Find images to measure with: some that validated if they are at hand, else the golden ones.

    Returns:
        Their files, and what they are.
    """
    if bundle.names("split"):
        samples, _ = read_part(bundle.verified("split"), "val")
        root = Path(bundle.manifest.provenance.dataset.path)
        # From all over the set: images of a class lie side by side.
        some = [root / s.path for s in samples[:: max(1, len(samples) // _IMAGES)]][:_IMAGES]
        if all(path.is_file() for path in some):
            return some, f"{len(some)} validation images"
    golden = [bundle.path / name for name in bundle.names("golden-image")]
    return golden, f"{len(golden)} golden images, which are of unusual kinds"


def tune(
    settings: Settings,
    images: Sequence[Path],
    *,
    rounds: int = ROUNDS,
    seconds: float = _SECONDS,
    advance: Callable[[], None] = lambda: None,
) -> list[Tuned]:
    """Measure every way of running that is worth a try, in turn, several times.

    In a process that ends with it: nothing of it is left in the service.

    Returns:
        Best first.

    Raises:
        TlserveError: The bundle cannot be run as asked.
    """
    ways = list(_ways(settings))
    speeds: dict[tuple[int, int], list[float]] = {way: [] for way in ways}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as process:
        for _ in range(rounds):
            for way in ways:
                speed = process.submit(_speed, settings, images, *way, seconds)
                speeds[way].append(speed.result())
                advance()
    found = [Tuned(*way, round(median(speeds[way]), 1)) for way in ways]
    found.sort(key=lambda tuned: -tuned.images_per_second)
    best = found[0].images_per_second
    close = [tuned for tuned in found if tuned.images_per_second >= _AS_FAST * best]
    picked = min(close, key=lambda tuned: (tuned.max_batch, tuned.threads))
    return [picked, *(tuned for tuned in found if tuned is not picked)]


def steps(settings: Settings, rounds: int = ROUNDS) -> int:
    """Tell how often :func:`tune` will call ``advance``."""
    return rounds * len(list(_ways(settings)))


def _ways(settings: Settings) -> Iterator[tuple[int, int]]:
    device = settings.running(Bundle.read(settings.bundle)).device
    counts = [1]
    if device == "cpu":
        most = available_processors()
        counts = sorted({most, *itertools.takewhile(lambda n: n < most, (1, 2, 4, 8, 16, 32))})
    yield from itertools.product(
        [settings.threads] if settings.threads else counts,
        [settings.max_batch] if settings.max_batch else BATCHES[device],
    )


def _speed(
    settings: Settings, images: Sequence[Path], threads: int, max_batch: int, seconds: float
) -> float:
    """Answer images for a while; images a second."""
    settings = settings.model_copy(update={"threads": threads, "max_batch": max_batch})
    bundle = Bundle.read(settings.bundle)
    running = settings.running(bundle)
    predictor = Predictor.load(bundle, running.backend, running.device, running.threads)
    engine = Engine(predictor, settings, running, Metrics(max_batch, CollectorRegistry()))
    try:
        return asyncio.run(_load(engine, [path.read_bytes() for path in images], seconds))
    finally:
        engine.stop()


async def _load(engine: Engine, images: Sequence[bytes], seconds: float) -> float:
    answered = 0
    source = itertools.cycle(images)

    async def client(end: float) -> None:
        nonlocal answered
        while time.perf_counter() < end:
            await engine.answer(next(source))
            answered += 1

    # The first answers set up what later ones use.
    await asyncio.gather(*(engine.answer(next(source)) for _ in range(_IN_FLIGHT)))
    started = time.perf_counter()
    await asyncio.gather(*(client(started + seconds) for _ in range(_IN_FLIGHT)))
    return answered / (time.perf_counter() - started)
