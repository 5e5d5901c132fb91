"""The golden images: encoded files of every kind, with the answers that the trained model gave.

Sending them through decoding, preprocessing, a backend and the calibration proves the whole way
from bytes to answer. The same check runs at export, in ``tlserve verify`` and before the service
says that it is ready.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tlserve.bundle import Bundle
from tlserve.bundle.manifest import Precision
from tlserve.errors import BundleFileError, ParityError
from tlserve.preprocess import preprocess
from tlserve.runtime.backend import Backend
from tlserve.runtime.softmax import softmax

TOLERANCES: dict[Precision, float] = {
    "float32": 1e-4,
    "float16": 1e-2,
    "bfloat16": 0.2,
    "int8": 0.2,
}
"""Largest |Δlogit| as a share of the range of the compared logits.

bfloat16 has as many significant digits as INT8: of both, accuracy decides.
"""

_PROBABILITIES = 10
"""Likewise of a probability: so many times the share, for the range of probabilities is 1."""

LOGITS, ANSWERS = "golden/logits.npy", "golden/answers.json"


@dataclass(frozen=True)
class GoldenResult:
    """What the golden images showed.

    Attributes:
        images: How many were compared.
        max_abs_diff: The largest difference of a logit.
        tolerance: The largest that passes.
        worst: The file with the largest difference.
        answered: Whether the classes' probabilities are the recorded ones, too.
    """

    images: int
    max_abs_diff: float
    tolerance: float
    worst: str
    answered: bool

    @property
    def within(self) -> bool:
        """Whether every logit is within the tolerance; NaN and infinity never are."""
        return math.isfinite(self.max_abs_diff) and self.max_abs_diff <= self.tolerance

    @property
    def passed(self) -> bool:
        """Whether logits and probabilities are the recorded ones."""
        return self.within and self.answered


def golden_tensors(bundle: Bundle) -> NDArray[np.float32]:
    """Decode and preprocess the golden images: float32, shape [G, 3, height, width]."""
    names = bundle.names("golden-image")
    spec = bundle.manifest.preprocessing
    return np.stack([preprocess((bundle.path / n).read_bytes(), spec) for n in names])


def golden_logits(bundle: Bundle) -> NDArray[np.float32]:
    """Read the recorded logits: float32, shape [G, classes], in the order of the files' names.

    Raises:
        BundleFileError: They are not there, or of the wrong shape.
        ChecksumError: They were altered.
    """
    recorded: NDArray[np.float32] = np.load(bundle.verified("golden-logits"), allow_pickle=False)
    expected = (len(bundle.names("golden-image")), len(bundle.manifest.classes))
    if recorded.shape != expected or not expected[0]:
        raise BundleFileError(
            f"The golden logits of {bundle.path} have shape {recorded.shape}, not {expected}."
        )
    return recorded


def _answers(bundle: Bundle) -> NDArray[np.float64]:
    """Read the recorded probability of each class, by its name: [G, classes]; NaN: not recorded."""
    path = bundle.verified("golden-answers")
    try:
        recorded: dict[str, dict[str, float]] = json.loads(path.read_text("utf-8"))
        rows = [
            [float(recorded[image].get(name, math.nan)) for name in bundle.manifest.classes]
            for image in bundle.names("golden-image")
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BundleFileError(f"{path} has no answers to the golden images: {error!r}.") from error
    return np.array(rows)


def compare_golden(bundle: Bundle, backend: Backend) -> GoldenResult:
    """Run the golden images, one at a time, and compare with the recorded answers."""
    names = bundle.names("golden-image")
    bundle.verify(names)
    recorded = golden_logits(bundle)
    found = np.concatenate([backend.logits(t[None]) for t in golden_tensors(bundle)])
    difference = np.abs(found.astype(np.float64) - recorded)
    worst = int(np.argmax(difference.max(axis=1)))
    share = TOLERANCES[backend.precision]
    probabilities = softmax(found, bundle.manifest.calibration.temperature)
    off = np.abs(probabilities - _answers(bundle)).max()
    return GoldenResult(
        images=len(names),
        max_abs_diff=float(difference.max()),
        tolerance=share * float(recorded.max() - recorded.min()),
        worst=names[worst],
        answered=bool(off <= _PROBABILITIES * share),
    )


def check_golden(bundle: Bundle, backend: Backend) -> GoldenResult:
    """Like :func:`compare_golden`, as a condition.

    Raises:
        ParityError: An answer differs; the message names the file and the difference.
    """
    result = compare_golden(bundle, backend)
    if not result.passed:
        if result.within:
            raise ParityError(
                f"The {backend.name} backend gives the recorded logits, but the classes' "
                "probabilities are not the recorded ones: the class list or the temperature in "
                "bundle.json is another.",
                hint="Restore bundle.json, or make the bundle again.",
            )
        raise ParityError(
            f"The {backend.name} backend does not answer as the trained model did: for "
            f"{result.worst} a logit differs by {result.max_abs_diff:.3g}; {result.tolerance:.3g} "
            "is allowed.",
            hint="Export the model again; if it stays, compare the library versions in its "
            "bundle.json.",
        )
    return result
