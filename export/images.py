"""The images of the training that an export needs, and whether they are still the same."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from export.validation import preprocessed
from tlserve.bundle import Bundle
from tlserve.bundle.files import sha256_of
from tlserve.data.folder import Sample
from tlserve.data.split import read_part
from tlserve.errors import DataError

_SEED = 11


def root_of(bundle: Bundle, data: Path | None) -> Path:
    """Give the image folder: the one that was given, or the one that the bundle recorded."""
    return data or Path(bundle.manifest.provenance.dataset.path)


def validation_samples(bundle: Bundle, data: Path | None) -> list[Sample]:
    """List the images that the model was validated on.

    Raises:
        DataError: One is missing, or another than it was.
    """
    return _same(
        bundle,
        data,
        "val",
        None,
        "Say where it is with --data DIR; `tlserve export --without-validation`, and `tlserve "
        "verify` without --data, leave this level out (the report will say so).",
    )


def calibration_images(
    bundle: Bundle, data: Path | None, count: int
) -> Sequence[NDArray[np.float32]]:
    """Preprocess some of the images that trained, drawn from all of them.

    Returns:
        Batches, float32 [N, 3, height, width].

    Raises:
        DataError: One is missing, or another than it was.
    """
    hint = "INT8 needs images that trained: say where they are with --data DIR."
    samples = _same(bundle, data, "train", count, hint)
    return list(preprocessed(bundle, root_of(bundle, data), samples))


def _same(
    bundle: Bundle,
    data: Path | None,
    part: Literal["train", "val"],
    count: int | None,
    hint: str,
) -> list[Sample]:
    """Give the images of a part, or ``count`` of them, seen to be those of the training."""
    samples, hashes = read_part(bundle.verified("split"), part)
    if count is not None and count < len(samples):
        drawn = np.random.default_rng(_SEED).choice(len(samples), count, replace=False)
        samples = [samples[number] for number in sorted(drawn)]
    root = root_of(bundle, data)
    if not root.is_dir():
        raise DataError(f"The image folder {root} is not there.", hint=hint)
    kind = {"train": "training", "val": "validation"}[part]
    for sample in samples:
        path = root / sample.path
        if not path.is_file():
            raise DataError(f"The {kind} image {path} is not there.", hint=hint)
        if sha256_of(path) != hashes[sample.path]:
            raise DataError(f"The {kind} image {path} is not the one of the training.", hint=hint)
    return samples
