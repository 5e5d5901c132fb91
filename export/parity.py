"""Does an exported file answer as the trained model does? Three levels, each able to fail.

1. numbers: eager float32 against the file, at several batch sizes, on inputs other than the
   export's example. With R = largest - smallest logit over the compared set, max |Δ| <= 1e-4 R.
2. decisions: the whole validation set, top-1 identical but where the margin is under twice the
   tolerance.
3. bytes to answer: the golden images through decoding, preprocessing and the file, against the
   logits recorded when the model was trained.

Beside them the file's description of itself (classes, preprocessing) must be the bundle's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tlserve.bundle import Bundle
from tlserve.data.folder import Sample
from tlserve.errors import TlserveError
from tlserve.preprocess import preprocess
from tlserve.runtime.backend import Backend, available_processors
from tlserve.runtime.golden import FLOAT32_TOLERANCE, compare_golden, golden_tensors

BATCH_SIZES = (1, 2, 7, 32)
"""The batches of the numbers level; 32 is the largest that the service forms by default."""

MEANINGFUL = 10
"""Outputs must differ between inputs by this many tolerances, or the comparison means nothing."""

_SEED = 20_260
_CHUNK = 32


@dataclass(frozen=True)
class Level:
    """The outcome of one level for one file.

    Attributes:
        name: ``description``, ``numbers``, ``decisions`` or ``bytes``.
        passed: Whether it passed; ``None``: it was not run.
        compared: How many inputs.
        max_abs_diff: The largest |Δlogit|; NaN is written as infinity.
        tolerance: The largest that passes.
        remark: What a person should know.
        flips: Images whose decision changed within the tolerated margin, or at all.
    """

    name: str
    passed: bool | None
    compared: int = 0
    max_abs_diff: float = 0.0
    tolerance: float = 0.0
    remark: str = ""
    flips: tuple[str, ...] = ()


@dataclass(frozen=True)
class ValidationLogits:
    """What a model gives for the validation images: float32 [N, classes], labels int64 [N]."""

    logits: NDArray[np.float32]
    labels: NDArray[np.int64]
    paths: tuple[str, ...]

    @property
    def accuracy(self) -> float:
        """The share of images whose own class has the largest logit."""
        return float((self.logits.argmax(1) == self.labels).mean())


def compare_description(expected: str, found: str) -> Level:
    """See that a file says of itself what the bundle says."""
    same = expected == found
    return Level("description", same, 1, remark="" if same else "classes or preprocessing differ")


def compare_numbers(
    bundle: Bundle,
    reference: Backend,
    candidate: Backend,
    batch_sizes: Sequence[int] = BATCH_SIZES,
) -> Level:
    """Compare logits at several batch sizes, on the golden images and on noise."""
    inputs = _inputs(bundle, max(batch_sizes))
    expected = _in_batches(reference, inputs, _CHUNK)
    tolerance = _tolerance(expected)
    spread = float((expected.max(axis=0) - expected.min(axis=0)).max())
    if not spread >= MEANINGFUL * tolerance:
        return Level(
            "numbers",
            False,
            len(inputs),
            tolerance=tolerance,
            remark=f"meaningless: outputs differ by {spread:.3g} between inputs; the model says "
            "the same of everything, so any export would pass",
        )
    worst, at = 0.0, 1
    for size in batch_sizes:
        try:
            found = candidate.logits(inputs[:size])
        except Exception as error:  # noqa: BLE001 - each runtime has exceptions of its own
            remark = f"batch {size} cannot run: {str(error).strip().splitlines()[0]}"
            return Level("numbers", False, len(inputs), _UNBOUNDED, tolerance, remark)
        if found.shape != expected[:size].shape:
            remark = f"batch {size} gives shape {found.shape}, not {expected[:size].shape}"
            return Level("numbers", False, len(inputs), _UNBOUNDED, tolerance, remark)
        difference = _max_abs_diff(found, expected[:size])
        if difference > worst:
            worst, at = difference, size
    sizes = ", ".join(map(str, batch_sizes))
    return Level(
        "numbers",
        worst <= tolerance,
        len(inputs),
        worst,
        tolerance,
        f"batches of {sizes}" if worst <= tolerance else f"worst at batch {at}",
    )


def compare_decisions(reference: ValidationLogits, found: NDArray[np.float32]) -> Level:
    """Compare the class named for every validation image."""
    expected = reference.logits
    tolerance = _tolerance(expected)
    if found.shape != expected.shape:
        remark = f"shape {found.shape}, not {expected.shape}"
        return Level("decisions", False, len(expected), _UNBOUNDED, tolerance, remark)
    ordered = np.sort(expected, axis=1)
    margins = ordered[:, -1] - ordered[:, -2]
    changed = np.flatnonzero(found.argmax(1) != expected.argmax(1))
    within = margins[changed] < 2 * tolerance
    flips = tuple(f"{reference.paths[i]} (margin {margins[i]:.3g})" for i in changed)
    difference = _max_abs_diff(found, expected)
    passed = bool(within.all()) and difference <= tolerance
    remark = f"accuracy {float((found.argmax(1) == reference.labels).mean()):.4f}"
    if len(changed):
        remark += f", {len(changed)} decisions changed"
    return Level("decisions", passed, len(expected), difference, tolerance, remark, flips)


def compare_bytes(bundle: Bundle, candidate: Backend) -> Level:
    """Compare the answers to the golden images with the recorded ones."""
    try:
        result = compare_golden(bundle, candidate)
    except TlserveError:
        raise
    except Exception as error:  # noqa: BLE001 - as above
        remark = f"cannot run: {str(error).strip().splitlines()[0]}"
        return Level("bytes", False, remark=remark)
    remark = "golden images" if result.passed else f"worst: {result.worst}"
    return Level(
        "bytes",
        result.passed,
        result.images,
        _finite(result.max_abs_diff),
        result.tolerance,
        remark,
    )


def run_validation(
    bundle: Bundle,
    root: Path,
    samples: Sequence[Sample],
    backends: dict[str, Backend],
    advance: Callable[[int], None],
) -> dict[str, ValidationLogits]:
    """Run several backends over the validation images, each image decoded once."""
    spec = bundle.manifest.preprocessing
    rows: dict[str, list[NDArray[np.float32]]] = {name: [] for name in backends}
    with ThreadPoolExecutor(available_processors()) as pool:
        for start in range(0, len(samples), _CHUNK):
            chunk = samples[start : start + _CHUNK]
            tensors = pool.map(lambda s: preprocess((root / s.path).read_bytes(), spec), chunk)
            batch = np.stack(list(tensors))
            for name, backend in backends.items():
                rows[name].append(backend.logits(batch))
            advance(len(chunk))
    labels = np.array([s.label for s in samples], dtype=np.int64)
    paths = tuple(s.path for s in samples)
    return {
        name: ValidationLogits(np.concatenate(parts), labels, paths) for name, parts in rows.items()
    }


_UNBOUNDED = float(np.finfo(np.float32).max)
"""Stands for a difference without a size (NaN, infinity, another shape), which JSON cannot say."""


def _inputs(bundle: Bundle, count: int) -> NDArray[np.float32]:
    golden = golden_tensors(bundle)
    noise = np.random.default_rng(_SEED).standard_normal(
        (max(count - len(golden), 0), *golden.shape[1:]), dtype=np.float32
    )
    return np.concatenate([golden, noise])[:count]


def _in_batches(backend: Backend, inputs: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    parts = [backend.logits(inputs[i : i + size]) for i in range(0, len(inputs), size)]
    return np.concatenate(parts)


def _tolerance(logits: NDArray[np.float32]) -> float:
    return FLOAT32_TOLERANCE * float(logits.max() - logits.min())


def _max_abs_diff(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    return _finite(float(np.abs(found.astype(np.float64) - expected).max()))


def _finite(difference: float) -> float:
    return difference if np.isfinite(difference) else _UNBOUNDED
