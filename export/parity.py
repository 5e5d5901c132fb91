"""Does an exported file answer as the trained model does? Three levels, each able to fail.

1. numbers: eager float32 against the file, at several batch sizes, on inputs other than the
   export's example. With R = largest - smallest logit over the compared set, max |Δ| <= t R, where
   t depends on the precision (:data:`tlserve.runtime.golden.TOLERANCES`).
2. decisions: the whole validation set. float32: top-1 identical but where the margin is under
   twice the tolerance. Narrower: within a budget of accuracy.
3. bytes to answer: the golden images through decoding, preprocessing, the file and the calibration,
   against the answers recorded when the model was trained.

Beside them: the file's description of itself (classes, preprocessing) must be the bundle's; an
image's logits must not depend on who shares its batch; and how far they depend on the number of
threads is reported.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from export.description import description
from export.outcome import Level
from export.validation import ValidationLogits
from tlserve.bundle import Bundle
from tlserve.bundle.manifest import Precision
from tlserve.errors import TlserveError
from tlserve.runtime.backend import Backend
from tlserve.runtime.golden import TOLERANCES, compare_golden, golden_tensors
from tlserve.runtime.processors import available_processors

BATCH_SIZES = (1, 2, 7, 32)
"""The batches of the numbers level; 32 is the largest that the service forms by default."""

MEANINGFUL = 10
"""Outputs must differ between inputs by this many tolerances, or the comparison means nothing."""

_BATCH_TOLERANCES: dict[Precision, float] = {
    "float32": 1e-4,
    "float16": 1e-2,
    "bfloat16": 1e-2,
    "int8": 1e-2,
}
"""As :data:`TOLERANCES`, for the same image alone and in company."""

_SEED = 20_260
_CHUNK = 32
_POINTS = 100


def compare_file(
    bundle: Bundle,
    reference: Backend | None,
    candidate: Backend,
    load: Callable[[int], Backend],
    batch_sizes: Sequence[int] = BATCH_SIZES,
) -> list[Level]:
    """Run every level that needs no images but those of the bundle.

    Args:
        bundle: Whose.
        reference: The trained model; ``None`` where torch is not at hand.
        candidate: The file.
        load: Loads the file to run on so many threads.
        batch_sizes: The batches to compare.
    """
    numbers = Level("numbers", None, remark="not run: torch is not installed")
    if reference is not None:
        numbers = compare_numbers(bundle, reference, candidate, batch_sizes)
    return [
        compare_description(description(bundle), candidate.description),
        numbers,
        compare_batches(bundle, candidate, max(batch_sizes)),
        compare_threads(bundle, candidate, load),
        compare_bytes(bundle, candidate),
    ]


def compare_description(expected: str, found: str | None) -> Level:
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
    tolerance = _tolerance(expected, candidate.precision)
    spread = float((expected.max(axis=0) - expected.min(axis=0)).max())
    if not spread >= MEANINGFUL * _tolerance(expected, "float32"):
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
            remark = f"batch {size} cannot run: {_first_line(error)}"
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


def compare_batches(bundle: Bundle, candidate: Backend, largest: int = BATCH_SIZES[-1]) -> Level:
    """See that an image gets the same logits alone, in a batch, and at another place in it."""
    inputs = _inputs(bundle, largest)
    try:
        alone = np.concatenate([candidate.logits(image[None]) for image in inputs])
        together = candidate.logits(inputs)
        elsewhere = candidate.logits(np.ascontiguousarray(inputs[::-1]))[::-1]
    except Exception as error:  # noqa: BLE001 - each runtime has exceptions of its own
        return Level("batches", False, remark=f"cannot run: {_first_line(error)}")
    if not np.isfinite(alone).all():
        return Level("batches", False, len(inputs), remark="logits that are no numbers")
    tolerance = _BATCH_TOLERANCES[candidate.precision] * float(alone.max() - alone.min())
    if together.shape != alone.shape:
        remark = f"shape {together.shape}, not {alone.shape}"
        return Level("batches", False, len(inputs), _UNBOUNDED, tolerance, remark)
    worst = max(_max_abs_diff(together, alone), _max_abs_diff(elsewhere, alone))
    remark = f"alone and in batches of {len(inputs)}"
    return Level("batches", worst <= tolerance, len(inputs), worst, tolerance, remark)


def compare_threads(bundle: Bundle, candidate: Backend, load: Callable[[int], Backend]) -> Level:
    """Report whether logits depend on the number of threads.

    Args:
        bundle: Whose.
        candidate: The file, loaded for all processors.
        load: Loads the file to run on so many threads.
    """
    inputs = golden_tensors(bundle)
    processors = available_processors()
    most = max(2, processors)
    try:
        on_all = _in_batches(candidate, inputs, _CHUNK)
        # Loading a file can take longer than all that is asked of it.
        on_others = _in_batches(load(1 if processors > 1 else most), inputs, _CHUNK)
    except TlserveError:
        raise
    except Exception as error:  # noqa: BLE001 - each runtime has exceptions of its own
        return Level("threads", None, remark=f"cannot run: {_first_line(error)}")
    same = bool((on_all == on_others).all())
    remark = f"{'bit for bit the same' if same else 'not the same'} on 1 and {most} threads"
    return Level("threads", None, len(inputs), _max_abs_diff(on_all, on_others), remark=remark)


def compare_decisions(
    reference: ValidationLogits,
    found: NDArray[np.float32],
    precision: Precision = "float32",
    max_accuracy_drop: float = 0.0,
) -> Level:
    """Compare the class named for every validation image.

    Args:
        reference: What the trained model gives.
        found: What the file gives, float32 [N, classes].
        precision: The file's. float32 must name the same classes, but where the margin is under
            twice the tolerance.
        max_accuracy_drop: The points of accuracy that a narrower one may lose.
    """
    expected = reference.logits
    tolerance = _tolerance(expected, precision)
    if found.shape != expected.shape:
        remark = f"shape {found.shape}, not {expected.shape}"
        return Level("decisions", False, len(expected), _UNBOUNDED, tolerance, remark)
    ordered = np.sort(expected, axis=1)
    margins = ordered[:, -1] - ordered[:, -2]
    changed = np.flatnonzero(found.argmax(1) != expected.argmax(1))
    changed = changed[np.argsort(-margins[changed], kind="stable")]
    flips = tuple(f"{reference.paths[i]} (margin {margins[i]:.3g})" for i in changed)
    difference = _max_abs_diff(found, expected)
    accuracy = float((found.argmax(1) == reference.labels).mean())
    drop = _POINTS * (reference.accuracy - accuracy)
    remark = f"accuracy {accuracy:.4f}"
    if len(changed):
        remark += f", {len(changed)} decisions changed"
    if precision == "float32":
        passed = bool((margins[changed] < 2 * tolerance).all()) and difference <= tolerance
    else:
        # An image more or less is a step of accuracy that floating point does not say exactly.
        passed = drop <= max_accuracy_drop + _ROUNDING and bool(np.isfinite(found).all())
        remark += f", {drop:+.2f} points lost, {max_accuracy_drop:g} allowed"
        tolerance = 0.0
    return Level(
        "decisions", passed, len(expected), difference, tolerance, remark, flips, round(drop, 6)
    )


def compare_bytes(bundle: Bundle, candidate: Backend) -> Level:
    """Compare the answers to the golden images with the recorded ones."""
    try:
        result = compare_golden(bundle, candidate)
    except TlserveError:
        raise
    except Exception as error:  # noqa: BLE001 - as above
        return Level("bytes", False, remark=f"cannot run: {_first_line(error)}")
    remark = "golden images"
    if not result.passed:
        remark = f"worst: {result.worst}"
        if result.within:
            remark = "the logits are right, the classes' probabilities are not"
    return Level(
        "bytes",
        result.passed,
        result.images,
        _finite(result.max_abs_diff),
        result.tolerance,
        remark,
    )


_ROUNDING = 1e-6

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


def _tolerance(logits: NDArray[np.float32], precision: Precision) -> float:
    return TOLERANCES[precision] * float(logits.max() - logits.min())


def _max_abs_diff(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    return _finite(float(np.abs(found.astype(np.float64) - expected).max()))


def _finite(difference: float) -> float:
    return difference if np.isfinite(difference) else _UNBOUNDED


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
