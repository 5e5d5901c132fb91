"""Splitting one folder into training and validation images, and recording which is which."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tlserve.data.folder import Folder, Sample
from tlserve.errors import BundleFileError, DataError


@dataclass(frozen=True)
class Split:
    """Which images train and which validate."""

    train: tuple[Sample, ...]
    val: tuple[Sample, ...]


def split(folder: Folder, fraction: float, seed: int) -> Split:
    """Take the folder's own split, or make one: stratified and seeded.

    Args:
        folder: The folder.
        fraction: The share of each class that validates, 0 to 1; at least one image of each class
            goes to either side.
        seed: The same seed and files give the same split.

    Raises:
        DataError: A class has one image only, so that it cannot be on both sides.
    """
    if folder.val is not None:
        return Split(folder.train, folder.val)
    by_class: dict[int, list[Sample]] = defaultdict(list)
    for sample in folder.train:
        by_class[sample.label].append(sample)
    train: list[Sample] = []
    val: list[Sample] = []
    for label, samples in sorted(by_class.items()):
        if len(samples) < 2:
            raise DataError(
                f"The class {folder.classes[label]!r} has one readable image; splitting needs two.",
                hint="Add images of it, or give train/ and val/ yourself.",
            )
        # A generator a class: images added to one class leave the split of the others as it was.
        shuffled = sorted(samples, key=lambda s: s.path)
        random.Random(f"{seed}/{folder.classes[label]}").shuffle(shuffled)  # noqa: S311
        count = min(max(round(len(shuffled) * fraction), 1), len(shuffled) - 1)
        val += shuffled[:count]
        train += shuffled[count:]
    return Split(
        tuple(sorted(train, key=lambda s: s.path)), tuple(sorted(val, key=lambda s: s.path))
    )


def write_split(path: Path, parts: Split, sha256: dict[str, str]) -> None:
    """Record a split as JSON: for each part, path, label index and SHA-256 of every image."""
    content = {
        name: [{"path": s.path, "label": s.label, "sha256": sha256[s.path]} for s in samples]
        for name, samples in (("train", parts.train), ("val", parts.val))
    }
    path.write_text(json.dumps(content, indent=1) + "\n", "utf-8")


def read_part(path: Path, part: Literal["train", "val"]) -> tuple[list[Sample], dict[str, str]]:
    """Read a part of a recorded split.

    Returns:
        The samples, and the SHA-256 of each by its path.

    Raises:
        BundleFileError: The file is not a recorded split.
    """
    try:
        rows: list[dict[str, Any]] = json.loads(path.read_text("utf-8"))[part]
        samples = [Sample(row["path"], row["label"]) for row in rows]
        return samples, {row["path"]: row["sha256"] for row in rows}
    except (ValueError, KeyError, TypeError) as error:
        raise BundleFileError(f"{path} is not a recorded split: {error!r}.") from error
