"""Measuring what an export wrote, and the model itself beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.choose import BATCHES, Candidate, choose, thread_counts
from export.demands import Demands
from export.outcome import Parity
from export.progress import Progress
from export.validation import preprocessed
from tlserve.bundle import Bundle
from tlserve.bundle.manifest import Serving
from tlserve.data.folder import Sample
from tlserve.runtime.backend import BACKENDS, load_backend
from tlserve.runtime.golden import golden_tensors
from tlserve.runtime.measure import Measurement, Subject, measure
from tlserve.runtime.serving import lanes

_IMAGES = 32
_ROUNDS = 3


@dataclass(frozen=True)
class Trial:
    """What was found.

    Attributes:
        found: The measurements, of every format with each number of threads and batch.
        candidates: What else there is to say of each format.
        serving: The best of them.
    """

    found: list[Measurement]
    candidates: list[Candidate]
    serving: Serving


def measured_images(bundle: Bundle, root: Path, samples: Sequence[Sample]) -> NDArray[np.float32]:
    """Preprocess some validation images; without any, the golden ones.

    Returns:
        float32, shape [N, 3, height, width].
    """
    if not samples:
        return golden_tensors(bundle)
    # From all over the set: images of a class lie side by side.
    step = max(1, len(samples) // _IMAGES)
    return next(preprocessed(bundle, root, samples[::step][:_IMAGES]))


def try_out(
    bundle: Bundle,
    passed: Sequence[Parity],
    accuracy: float | None,
    images: NDArray[np.float32],
    demands: Demands,
    progress: Progress,
) -> Trial:
    """Measure the formats that passed, and choose.

    Args:
        bundle: It has their files.
        passed: The formats.
        accuracy: Of the model on the validation images, from 0 to 1, if it is known.
        images: What they run on; float32, shape [N, 3, height, width].
        demands: The device, the latency that is allowed, the time for each.
        progress: Told what happens.

    Raises:
        DeviceError: The device cannot be used.
        ExportError: Nothing is fast enough.
    """
    device = demands.device
    names = [*(result.format for result in passed), "eager"]
    threads = thread_counts() if device == "cpu" else [1]
    subjects = [
        Subject(load_backend(bundle, name, device, count), count, lanes(device, count))
        for name in names
        for count in threads
    ]
    batches = BATCHES[device]
    progress.begin("measuring", len(subjects) * len(batches) * _ROUNDS)
    found = measure(
        subjects,
        images,
        batches,
        rounds=_ROUNDS,
        seconds=demands.seconds / _ROUNDS,
        advance=progress.advance,
    )
    progress.end()
    candidates = [_candidate(bundle, name, passed, accuracy) for name in names]
    return Trial(found, candidates, choose(found, demands.p99_ms))


def _candidate(
    bundle: Bundle, name: str, passed: Sequence[Parity], accuracy: float | None
) -> Candidate:
    files = bundle.manifest.files
    size = sum(files[file].bytes for file in bundle.names_read(BACKENDS[name].kind))
    flips = 0
    for result in passed:
        if result.format == name:
            decisions = result.level("decisions")
            flips = len(decisions.flips)
            if accuracy is not None:
                accuracy -= decisions.accuracy_drop / 100
    return Candidate(name, size, None if accuracy is None else round(accuracy, 6), flips)
