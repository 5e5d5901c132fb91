"""Image folders of any size: JPEG files that take about as long to decode as photographs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

_SIZE = (320, 240)
_VALIDATION = 16
_CLASSES = ("first", "second")
_COARSE = {"first": (5, 4), "second": (40, 30)}
"""Of how many coloured patches a picture consists; what tells the classes apart."""


def write_folder(root: Path, images: int) -> Path:
    """Write a folder of two classes.

    Args:
        root: The folder; it is made.
        images: How many train; those that validate are always the same 16.
    """
    for part, count, seed in (("train", images, 0), ("val", _VALIDATION, 1)):
        generator = np.random.default_rng(seed)
        for name in _CLASSES:
            (root / part / name).mkdir(parents=True)
        for number in range(count):
            name = _CLASSES[number % len(_CLASSES)]
            picture = _picture(generator, _COARSE[name])
            picture.save(root / part / name / f"{number:06}.jpg", quality=90)
    return root


def _picture(generator: np.random.Generator, patches: tuple[int, int]) -> Image.Image:
    """Smooth patches under the noise of a sensor: flat pictures would decode faster."""
    columns, rows = patches
    coarse = generator.integers(256, size=(rows, columns, 3), dtype=np.uint8)
    smooth = Image.fromarray(coarse).resize(_SIZE, Image.Resampling.BICUBIC)
    noise = generator.integers(-12, 13, size=(_SIZE[1], _SIZE[0], 1), dtype=np.int16)
    return Image.fromarray((np.asarray(smooth) + noise).clip(0, 255).astype(np.uint8))
