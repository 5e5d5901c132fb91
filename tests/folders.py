"""Image folders for tests: real files, few and small, whose classes can be learned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"blue": (40, 60, 200), "green": (40, 180, 60), "red": (200, 50, 40)}


def picture(colour: tuple[int, int, int], seed: int, side: int = 48) -> Image.Image:
    """A noisy picture of one colour."""
    generator = np.random.default_rng(seed)
    pixels = np.array(colour) + generator.normal(0, 25, (side, side + seed % 7, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def write_class(folder: Path, name: str, count: int, first: int = 0) -> None:
    """Write ``count`` pictures of a class."""
    (folder / name).mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        suffix = ".jpg" if number % 2 else ".png"
        picture(COLOURS[name], number).save(folder / name / f"{number:03}{suffix}")


def write_flat(root: Path, count: int = 10) -> Path:
    """Write one folder a class."""
    for name in COLOURS:
        write_class(root, name, count)
    return root


def write_parts(root: Path, train: int = 8, val: int = 4) -> Path:
    """Write ``train/`` and ``val/``."""
    for name in COLOURS:
        write_class(root / "train", name, train)
        write_class(root / "val", name, val, first=100)
    return root


def mislabel(root: Path, name: str, as_name: str) -> None:
    """Replace the validation pictures of a class by pictures of another one."""
    for path in (root / "val" / name).iterdir():
        picture(COLOURS[as_name], len(path.name)).save(path)
