"""Making large images smaller before they are augmented."""

from __future__ import annotations

import math

from PIL import Image

from tlserve.bundle.manifest import Preprocessing

_NARROWEST = 3 / 4
"""The edges' ratio of the narrowest random crop, torchvision's default."""

_GAP = 3.0
"""Pillow shrinks by a whole number first, to no less than so many times the size."""


def sufficient_edge(spec: Preprocessing, min_scale: float) -> int:
    """Give a shorter edge at which no random crop has to be enlarged.

    A crop of the share ``min_scale`` of an image, with edges of a ratio of 3:4, has a shorter edge
    of sqrt(area · min_scale · 3/4) pixels, and the area is at least the square of the image's.
    """
    return math.ceil(max(spec.resize) / math.sqrt(min_scale * _NARROWEST))


def reduced_edges(edges: tuple[int, int], short_edge: int) -> tuple[int, int]:
    """Give an image's edges, shrunk together until the shorter one is at most ``short_edge``."""
    scale = short_edge / min(edges)
    if scale >= 1:
        return edges
    first, second = (max(short_edge, round(edge * scale)) for edge in edges)
    return first, second


def reduced(image: Image.Image, short_edge: int) -> Image.Image:
    """Shrink an image until its shorter edge is at most ``short_edge``, antialiased."""
    size = reduced_edges(image.size, short_edge)
    if size == image.size:
        return image
    return image.resize(size, Image.Resampling.LANCZOS, reducing_gap=_GAP)
