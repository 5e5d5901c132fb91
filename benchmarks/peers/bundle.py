"""What the peers take from a bundle: the same weights, classes and numbers of the preprocessing.

The code is theirs, not that of ``tlserve``: what somebody writes who serves a model by hand.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

if TYPE_CHECKING:
    import torch

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Description:
    """What ``bundle.json`` says."""

    path: Path
    arch: str
    classes: list[str]
    resize: int
    crop: int
    mean: list[float]
    std: list[float]

    def answer(self, probabilities: Any) -> dict[str, str | float]:
        """Name the most probable class."""
        best = int(probabilities.argmax())
        return {"label": self.classes[best], "probability": float(probabilities[best])}


def read(path: Path) -> Description:
    """Read it."""
    content = json.loads((path / "bundle.json").read_text("utf-8"))
    numbers = content["preprocessing"]
    return Description(
        path=path,
        arch=content["architecture"],
        classes=content["classes"],
        resize=numbers["resize"][0],
        crop=numbers["crop"][0],
        mean=numbers["mean"],
        std=numbers["std"],
    )


def numpy_preprocessing(model: Description) -> Callable[[bytes], Array]:
    """Give the function from an image's bytes to the network's input, with Pillow and NumPy."""
    # (x / 255 - mean) / std as one multiplication and one addition.
    scale = (1 / (255 * np.array(model.std))).astype(np.float32)
    shift = (-np.array(model.mean) / np.array(model.std)).astype(np.float32)

    def preprocess(data: bytes) -> Array:
        image = Image.open(io.BytesIO(data)).convert("RGB")
        width, height = image.size
        factor = model.resize / min(width, height)
        size = (int(width * factor + 1e-6), int(height * factor + 1e-6))
        image = image.resize(size, Image.Resampling.BILINEAR)
        left, top = round((size[0] - model.crop) / 2), round((size[1] - model.crop) / 2)
        image = image.crop((left, top, left + model.crop, top + model.crop))
        pixels = np.asarray(image, dtype=np.float32) * scale + shift
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))

    return preprocess


def onnx_probabilities(model: Description, threads: int) -> Callable[[Array], Array]:
    """Give the function from a batch to its probabilities, with ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        model.path / "model.onnx", options, providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name

    def probabilities(batch: Array) -> Array:
        (logits,) = session.run(None, {name: batch})
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        result: Array = exponentials / exponentials.sum(axis=1, keepdims=True)
        return result

    return probabilities


def torch_network(model: Description) -> torch.nn.Module:
    """Build the network in eager mode."""
    from safetensors.torch import load_file
    from torchvision.models import get_model

    network: torch.nn.Module = get_model(model.arch, num_classes=len(model.classes))
    network.load_state_dict(load_file(model.path / "weights.safetensors"))
    return network.eval()


def torch_transforms(model: Description) -> Callable[[Image.Image], torch.Tensor]:
    """Give torchvision's transforms, as a set of pretrained weights has them."""
    from torchvision.transforms._presets import ImageClassification

    transforms: Callable[[Image.Image], torch.Tensor] = ImageClassification(
        crop_size=model.crop, resize_size=model.resize, mean=tuple(model.mean), std=tuple(model.std)
    )
    return transforms
