"""What a request for several images may bring, and how many places in the queue it holds for it."""

from __future__ import annotations

from dataclasses import dataclass

from service.settings import Settings

_FULL_SIZED = 8
"""A request may have more images than that, but no more bytes than as many of the largest."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one request.

    Attributes:
        images: The most images. A request takes as many places, so that no queue is too short.
        image_bytes: The largest image, in bytes.
        total_bytes: All of its images together, in bytes.
    """

    images: int
    image_bytes: int
    total_bytes: int

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        """Derive them from the settings."""
        images = min(settings.max_images, settings.max_queue)
        each = settings.max_bytes
        return cls(images, each, min(images, _FULL_SIZED) * each)

    def places(self, declared: int | None) -> int:
        """Count the places to take before a body is read.

        A place stands for the bytes of one of the largest images: what all the requests that are
        being read hold together has the same bound, whether they bring one image or many.

        Args:
            declared: The body's length, where it is known.
        """
        length = self.total_bytes if declared is None else min(declared, self.total_bytes)
        return max(1, -(-length // self.image_bytes))
