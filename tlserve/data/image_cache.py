"""Decoded images, kept on disk for later epochs and later runs.

A file of all pixels is mapped into memory, by the worker processes as well: what is read often
stays in the page cache, which all of them share and which the system takes back when memory is
short. The processes' own memory does not grow with the number of images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_PIXELS, _INDEX = "pixels", "index.npy"
_CHUNK = 8
"""Images a thread that are held in memory while the file is written."""

Result = TypeVar("Result")


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


def in_threads(function: Callable[[int], Result], count: int, threads: int) -> Iterator[Result]:
    """Call a function with 0, 1, … ``count`` - 1; give its results in that order.

    Unlike with an executor's ``map``, neither tasks nor results pile up.
    """
    size = threads * _CHUNK
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, count, size):
            yield from pool.map(function, range(start, min(start + size, count)))
