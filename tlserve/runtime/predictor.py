"""From images' bytes to labelled probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tlserve.bundle import Bundle
from tlserve.preprocess import preprocess
from tlserve.runtime.backend import Backend, Device, load_backend
from tlserve.runtime.softmax import softmax

_FEW_CLASSES = 256
"""Up to so many, plain Python is faster than numpy with its switch of threads."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """One class and its probability."""

    label: str
    probability: float


class Predictor:
    """A bundle that answers, through one backend.

    Preprocessing and inference are separate calls, so that a server can do the first for each
    request on its own and the second for a batch.
    """

    def __init__(self, bundle: Bundle, backend: Backend) -> None:
        self.bundle = bundle
        self.backend = backend

    @classmethod
    def load(
        cls,
        bundle: Bundle,
        backend: str = "onnx",
        device: Device = "cpu",
        threads: int | None = None,
    ) -> Predictor:
        """Load a bundle; the arguments and errors are :func:`load_backend`'s."""
        return cls(bundle, load_backend(bundle, backend, device, threads))

    def preprocess(self, data: bytes) -> NDArray[np.float32]:
        """Turn an image file's bytes into the network's input, float32 [3, height, width].

        Raises:
            ImageError: This image cannot be used.
        """
        return preprocess(data, self.bundle.manifest.preprocessing)

    def probabilities(self, batch: NDArray[np.float32]) -> NDArray[np.float64]:
        """Run a batch.

        Args:
            batch: float32, shape [N, 3, height, width].

        Returns:
            float64, shape [N, classes]; each row sums to 1.
        """
        logits = self.backend.logits(batch)
        return softmax(logits, self.bundle.manifest.calibration.temperature)

    def top(self, probabilities: NDArray[np.float64], k: int | None = None) -> list[Prediction]:
        """Name the most probable classes of one image.

        Args:
            probabilities: Shape [classes].
            k: How many; all if ``None`` or if there are fewer classes.
        """
        # A stable sort names equally probable classes in index order, on every machine.
        values: list[float] = probabilities.tolist()
        if len(values) > _FEW_CLASSES:
            order = np.argsort(-probabilities, kind="stable")[:k].tolist()
        else:
            # numpy lets other threads have the interpreter, and a busy service waits for it.
            order = sorted(range(len(values)), key=values.__getitem__, reverse=True)[:k]
        classes = self.bundle.manifest.classes
        return [Prediction(classes[i], values[i]) for i in order]

    def predict(self, images: Sequence[bytes], k: int | None = None) -> list[list[Prediction]]:
        """Answer for a batch of image files.

        Raises:
            ImageError: One of the images cannot be used.
        """
        if not images:
            return []
        batch = np.stack([self.preprocess(data) for data in images])
        return [self.top(row, k) for row in self.probabilities(batch)]
