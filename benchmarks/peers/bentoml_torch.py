"""BentoML as in its tutorials: a batchable method, and torch in eager mode.

BUNDLE=models/NAME bentoml serve benchmarks.peers.bentoml_torch:Classifier --port 8000
"""

from __future__ import annotations

import os
from pathlib import Path

import bentoml
import torch
from PIL.Image import Image

from benchmarks.peers.bundle import read, torch_network, torch_transforms


@bentoml.service
class Classifier:
    """The service."""

    def __init__(self) -> None:
        self._model = read(Path(os.environ["BUNDLE"]))
        self._network = torch_network(self._model)
        self._transforms = torch_transforms(self._model)

    @bentoml.api(batchable=True)  # type: ignore[untyped-decorator]
    def classify(self, images: list[Image]) -> list[dict[str, str | float]]:
        """Name the class of each image."""
        batch = torch.stack([self._transforms(image.convert("RGB")) for image in images])
        with torch.inference_mode():
            found = self._network(batch).softmax(1)
        return [self._model.answer(row) for row in found]
