"""What ONNX Runtime's calibration needs: images one batch after the other, and no chatter."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod
from onnxruntime.quantization.calibrate import create_calibrator

Batches = Sequence[NDArray[np.float32]]
"""Preprocessed images, float32 [N, 3, height, width] each."""


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """Gives batches of images as the inputs of a model."""

    def __init__(self, model: Path, images: Batches) -> None:
        graph = onnx.load_model(str(model), load_external_data=False).graph
        self._input = graph.input[0].name
        self._batches = iter(images)

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """Give the next batch by the name of the input; ``None`` after the last."""
        batch = next(self._batches, None)
        return None if batch is None else {self._input: batch}


def largest(model: Path, images: Batches, folder: Path) -> tuple[str, float]:
    """Find the tensor between two layers that reaches furthest from 0.

    Args:
        model: An ONNX file.
        images: What it is run on.
        folder: For a file in between.

    Returns:
        Its name, and how far.
    """
    with quiet():
        calibrator = create_calibrator(
            model,
            None,
            augmented_model_path=str(folder / "augmented.onnx"),
            calibrate_method=CalibrationMethod.MinMax,
        )
        calibrator.collect_data(Reader(model, images))
        ranges = calibrator.compute_data()
    reached = {
        name: float(max(-np.min(found.lowest), np.max(found.highest)))
        for name, found in ranges.data.items()
    }
    name = max(reached, key=reached.__getitem__)
    return name, reached[name]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the library's remarks, which it gives to the root logger, from the user's terminal."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.setLevel(level)
