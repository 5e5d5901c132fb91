"""The golden images: encoded files of every kind, with the logits that the trained model gave.

Sending them through decoding, preprocessing and a backend proves the whole way from bytes to
answer. The same check runs at export, in ``tlserve verify`` and before the service says that it is
ready.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tlserve.bundle import Bundle
from tlserve.errors import BundleFileError, ParityError
from tlserve.preprocess import preprocess
from tlserve.runtime.backend import Backend

FLOAT32_TOLERANCE = 1e-4
"""Largest |Δlogit| as a share of the range of the compared logits, for float32."""

LOGITS = "golden/logits.npy"


@dataclass(frozen=True)
class GoldenResult:
    """What the golden images showed.

    Attributes:
        images: How many were compared.
        max_abs_diff: The largest difference of a logit.
        tolerance: The largest that passes.
        worst: The file with the largest difference.
    """

    images: int
    max_abs_diff: float
    tolerance: float
    worst: str

    @property
    def passed(self) -> bool:
        """Whether every logit is within the tolerance; NaN and infinity never are."""
        return math.isfinite(self.max_abs_diff) and self.max_abs_diff <= self.tolerance


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


def compare_golden(bundle: Bundle, backend: Backend) -> GoldenResult:
    """Run the golden images, one at a time, and compare with the recorded logits."""
    names = bundle.names("golden-image")
    bundle.verify(names)
    recorded = golden_logits(bundle)
    found = np.concatenate([backend.logits(t[None]) for t in golden_tensors(bundle)])
    difference = np.abs(found.astype(np.float64) - recorded)
    worst = int(np.argmax(difference.max(axis=1)))
    return GoldenResult(
        images=len(names),
        max_abs_diff=float(difference.max()),
        tolerance=FLOAT32_TOLERANCE * float(recorded.max() - recorded.min()),
        worst=names[worst],
    )


def check_golden(bundle: Bundle, backend: Backend) -> GoldenResult:
    """Like :func:`compare_golden`, as a condition.

    Raises:
        ParityError: An answer differs; the message names the file and the difference.
    """
    result = compare_golden(bundle, backend)
    if not result.passed:
        raise ParityError(
            f"The {backend.name} backend does not answer as the trained model did: for "
            f"{result.worst} a logit differs by {result.max_abs_diff:.3g}; {result.tolerance:.3g} "
            "is allowed.",
            hint="Export the model again; if it stays, compare the library versions in its "
            "bundle.json.",
        )
    return result
