"""Image files that are not what they say: mutated, truncated, spliced, and bombs."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from functools import cache

import numpy as np
from PIL import Image

from tests.images import encoded, noise, png

_EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)


@cache
def seeds() -> tuple[bytes, ...]:
    """Whole files, of every format that is decoded."""
    photo = noise(96, 72, 1)
    grey = photo.convert("L")
    rgba = photo.convert("RGBA")
    return (
        encoded(photo, "JPEG", quality=90),
        encoded(photo, "JPEG", progressive=True),
        encoded(photo.convert("CMYK"), "JPEG"),
        encoded(photo, "PNG"),
        encoded(rgba, "PNG"),
        encoded(photo.convert("P"), "PNG"),
        encoded(Image.fromarray(np.asarray(grey).astype(np.uint16) * 257), "PNG"),
        encoded(photo.convert("P"), "GIF", save_all=True, append_images=[grey.convert("P")]),
        encoded(photo, "BMP"),
        encoded(photo, "TIFF", compression="tiff_lzw"),
        encoded(photo, "TIFF", compression="jpeg"),
        encoded(photo, "PPM"),
        encoded(photo, "WEBP"),
        encoded(rgba, "WEBP", lossless=True),
        encoded(photo, "AVIF"),
        encoded(photo, "JPEG2000"),
    )


def mutated(generator: np.random.Generator) -> bytes:
    """Change a whole file in one of several ways, most of them a few times."""
    data = bytearray(_seed(generator))
    for _ in range(int(generator.integers(1, 6))):
        way = _WAYS[int(generator.integers(len(_WAYS)))]
        data = way(data, generator)
    return bytes(data)


def bomb(generator: np.random.Generator) -> bytes:
    """Make a small file that says that it is a large image, or whose parts unpack to much."""
    return _BOMBS[int(generator.integers(len(_BOMBS)))](generator)


def _seed(generator: np.random.Generator) -> bytes:
    files = seeds()
    return files[int(generator.integers(len(files)))]


def _place(data: bytearray, generator: np.random.Generator) -> int:
    # Headers are where the damage is done: half of the changes go there.
    end = min(len(data), 200) if generator.random() < 0.5 else len(data)
    return int(generator.integers(max(end, 1)))


def _flip(data: bytearray, generator: np.random.Generator) -> bytearray:
    for _ in range(int(generator.integers(1, 20))):
        if data:
            data[_place(data, generator)] ^= 1 << int(generator.integers(8))
    return data


def _overwrite(data: bytearray, generator: np.random.Generator) -> bytearray:
    """Write a number where the file may have a length, a size or an offset."""
    value = _EXTREMES[int(generator.integers(len(_EXTREMES)))]
    kind = ("<I", ">I", "<H", ">H", "B")[int(generator.integers(5))]
    packed = struct.pack(kind, value & ((1 << (8 * struct.calcsize(kind))) - 1))
    place = _place(data, generator)
    data[place : place + len(packed)] = packed
    return data


def _cut(data: bytearray, generator: np.random.Generator) -> bytearray:
    return data[: int(generator.integers(len(data) + 1))]


def _remove(data: bytearray, generator: np.random.Generator) -> bytearray:
    place = _place(data, generator)
    del data[place : place + int(generator.integers(1, 64))]
    return data


def _repeat(data: bytearray, generator: np.random.Generator) -> bytearray:
    place = _place(data, generator)
    part = data[place : place + int(generator.integers(1, 256))]
    data[place:place] = part * int(generator.integers(1, 40))
    return data


def _insert(data: bytearray, generator: np.random.Generator) -> bytearray:
    place = _place(data, generator)
    data[place:place] = generator.bytes(int(generator.integers(1, 64)))
    return data


def _splice(data: bytearray, generator: np.random.Generator) -> bytearray:
    """Go on as another file does."""
    other = _seed(generator)
    place = _place(data, generator)
    return data[:place] + bytearray(other[min(place, len(other)) :])


_WAYS: tuple[Callable[[bytearray, np.random.Generator], bytearray], ...] = (
    _flip,
    _overwrite,
    _overwrite,
    _cut,
    _remove,
    _repeat,
    _insert,
    _splice,
)


def _size(generator: np.random.Generator) -> tuple[int, int]:
    edges = (60_000, 65_535, 2**31 - 1, 20_000, 9_000)
    return edges[int(generator.integers(3))], edges[int(generator.integers(len(edges)))]


def _png_that_says_large(generator: np.random.Generator) -> bytes:
    width, height = _size(generator)
    return png(width, height, depth=8, colour=6, rows=bytes(1000))


def _png_that_unpacks_to_much(_: np.random.Generator) -> bytes:
    """A hundred pixels, and 200 MB of zeros behind them."""
    return png(10, 10, depth=8, colour=2, rows=bytes(200_000_000))


def _png_with_long_text(_: np.random.Generator) -> bytes:
    text = b"note\0\0" + zlib.compress(bytes(100_000_000))
    chunk = struct.pack(">I", len(text)) + b"zTXt" + text
    chunk += struct.pack(">I", zlib.crc32(b"zTXt" + text))
    small = encoded(noise(8, 8), "PNG")
    return small[:33] + chunk + small[33:]


def _jpeg_that_says_large(_: np.random.Generator) -> bytes:
    data = bytearray(encoded(noise(16, 16), "JPEG"))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", 65_500, 65_500)
    return bytes(data)


def _gif_that_says_large(_: np.random.Generator) -> bytes:
    data = bytearray(encoded(noise(16, 16).convert("P"), "GIF"))
    data[6:10] = struct.pack("<HH", 65_535, 65_535)
    return bytes(data)


def _bmp_that_says_large(_: np.random.Generator) -> bytes:
    data = bytearray(encoded(noise(16, 16), "BMP"))
    data[18:26] = struct.pack("<ii", 2**31 - 1, 2**31 - 1)
    return bytes(data)


def _ppm_that_says_large(_: np.random.Generator) -> bytes:
    return b"P6\n999999999 999999999\n255\n" + bytes(300)


def _animation(generator: np.random.Generator) -> bytes:
    """Hundreds of frames, of which only the first counts."""
    frames = [noise(32, 32, n).convert("P") for n in range(3)] * 100
    return encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])


def _tiff_with_a_loop(_: np.random.Generator) -> bytes:
    """The list of its images begins again where it ends."""
    file = io.BytesIO()
    noise(16, 16).save(file, "TIFF")
    data = bytearray(file.getvalue())
    first = struct.unpack_from("<I", data, 4)[0]
    entries = struct.unpack_from("<H", data, first)[0]
    struct.pack_into("<I", data, first + 2 + 12 * entries, first)
    return bytes(data)


_BOMBS: tuple[Callable[[np.random.Generator], bytes], ...] = (
    _png_that_says_large,
    _jpeg_that_says_large,
    _gif_that_says_large,
    _bmp_that_says_large,
    _ppm_that_says_large,
    _png_with_long_text,
    _png_that_unpacks_to_much,
    _animation,
    _tiff_with_a_loop,
)
