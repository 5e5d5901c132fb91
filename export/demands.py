"""What whoever exports asks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from export.parity import BATCH_SIZES
from tlserve.runtime.backend import Device


@dataclass(frozen=True)
class Demands:
    """What an exported file must hold to, and what is measured.

    Attributes:
        data: The image folder, where it is no longer at the path that the bundle recorded.
        without_validation: Leave the decisions level out; the report says so.
        batch_sizes: The batches that are compared; the report names them.
        max_accuracy_drop: The points of accuracy that precisions narrower than float32 may lose.
        calibration_images: How many of the images that trained calibrate INT8.
        device: Where the files run.
        choose: Whether to leave out what fails, measure the others, and record the best.
        p99_ms: What is chosen must answer 99 of 100 batches in so many milliseconds.
        seconds: How long each is measured.
    """

    data: Path | None = None
    without_validation: bool = False
    batch_sizes: Sequence[int] = BATCH_SIZES
    max_accuracy_drop: float = 0.5
    calibration_images: int = 128
    device: Device = "cpu"
    choose: bool = False
    p99_ms: float | None = None
    seconds: float = 0.9
