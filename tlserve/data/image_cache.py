"""Decoded images, kept on disk for later epochs and later runs.

A file of all pixels is mapped into memory, by the worker processes as well: what is read often
stays in the page cache, which all of them share and which the system takes back when memory is
short. The processes' own memory does not grow with the number of images.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tlserve.data.threads import in_threads

_PIXELS, _INDEX = "pixels", "index.npy"


class KeptImages:
    """Images of different sizes in one file, RGB, 8 bits a channel."""

    def __init__(self, place: Path) -> None:
        """Open what :func:`write_images` has written into a folder."""
        self._place = place
        self._pixels: NDArray[np.uint8] = np.memmap(place / _PIXELS, np.uint8, "r")
        self._index: NDArray[np.int64] = np.load(place / _INDEX, mmap_mode="r")

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, number: int) -> Image.Image:
        """Give a copy of an image."""
        start, height, width = (int(value) for value in self._index[number])
        pixels = self._pixels[start : start + height * width * 3]
        return Image.fromarray(pixels.reshape(height, width, 3))

    def __reduce__(self) -> tuple[type[KeptImages], tuple[Path]]:
        # A memory map would be pickled as the numbers in it.
        return KeptImages, (self._place,)


def write_images(
    folder: Path,
    count: int,
    image: Callable[[int], Image.Image],
    *,
    threads: int,
    advance: Callable[[], None],
) -> None:
    """Write images one behind the other, and where each begins.

    Args:
        folder: Gets two files.
        count: The number of images.
        image: Gives one by its number, RGB; called by several threads.
        threads: How many; Pillow releases the interpreter's lock while it decodes.
        advance: Called once an image.

    Raises:
        OSError: The disk refused.
    """
    index = np.zeros((count, 3), np.int64)
    start = 0
    with (folder / _PIXELS).open("wb") as file:
        for number, decoded in enumerate(in_threads(image, count, threads)):
            index[number] = start, decoded.height, decoded.width
            start += file.write(decoded.tobytes())
            advance()
    np.save(folder / _INDEX, index, allow_pickle=False)
