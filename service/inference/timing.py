"""Where the time of one image went."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Timing:
    """Where the time of one image went, in seconds.

    Attributes:
        queue: Until its decoding began.
        decode: From bytes to pixels.
        preprocess: From pixels to the network's input.
        batch_wait: From then until its batch began.
        inference: How long its batch ran.
        delivery: From its end until the event loop had the result.
        batch: How many images were in its batch.
    """

    queue: float = 0.0
    decode: float = 0.0
    preprocess: float = 0.0
    batch_wait: float = 0.0
    inference: float = 0.0
    delivery: float = 0.0
    batch: int = 0

    @property
    def total(self) -> float:
        """All of it, in seconds."""
        before = self.queue + self.decode + self.preprocess
        return before + self.batch_wait + self.inference + self.delivery
