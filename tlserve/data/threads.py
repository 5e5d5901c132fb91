"""Working on many images in threads; Pillow releases the interpreter's lock while it decodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_CHUNK = 8
"""Tasks a thread that are known at a time."""

Result = TypeVar("Result")


def in_threads(function: Callable[[int], Result], count: int, threads: int) -> Iterator[Result]:
    """Call a function with 0, 1, … ``count`` - 1; give its results in that order.

    Unlike with an executor's ``map``, neither tasks nor results pile up.
    """
    size = threads * _CHUNK
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, count, size):
            yield from pool.map(function, range(start, min(start + size, count)))
