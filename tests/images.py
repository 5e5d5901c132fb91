"""Small images for tests: as Pillow images, and encoded."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    """An RGB image of smooth colours under noise: both ends of what photographs have."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    smooth = np.stack([x * 3 + y, x + y * 2, x * y // 7 + 40], axis=2) % 256
    pixels = (smooth + generator.integers(0, 40, smooth.shape)) % 256
    return Image.fromarray(pixels.astype(np.uint8))


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """Encode an image in one of Pillow's formats."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png(
    width: int, height: int, *, depth: int, colour: int, rows: bytes, transparency: bytes = b""
) -> bytes:
    """Assemble a PNG by hand, for what Pillow does not write.

    Args:
        width: In pixels; the header's word, whatever ``rows`` holds.
        height: Likewise.
        depth: Bits a sample.
        colour: PNG's colour type: 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGBA.
        rows: The raw scan lines, each behind its filter byte.
        transparency: The content of a ``tRNS`` chunk.
    """
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"tRNS", transparency), (b"IDAT", zlib.compress(rows))]
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in [*chunks, (b"IEND", b"")]
        if data or kind == b"IEND"
    )
    return b"\x89PNG\r\n\x1a\n" + body
