"""The eager torch backend: the model that was trained, rebuilt from the bundle alone."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from tlserve.bundle import Bundle
from tlserve.bundle.manifest import Precision
from tlserve.errors import BundleFileError
from tlserve.runtime.allocator import keep_freed_memory
from tlserve.runtime.backend import Backend, Device
from tlserve.runtime.processors import available_processors
from tlserve.runtime.torch_device import exact_float32, torch_device
from tlserve.zoo.architectures import fillable
from tlserve.zoo.state_dict import versioned


class TorchBackend:
    """A ``torch.nn.Module`` in evaluation mode."""

    name = "eager"
    precision: Precision = "float32"
    description: str | None = None

    def __init__(self, model: nn.Module, device: torch.device, threads: int | None) -> None:
        self.model = model
        self.device = device.type
        self._device = device
        self._threads = threads or available_processors()
        if device.type == "cuda":
            exact_float32()
        else:
            keep_freed_memory()

    def logits(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run the network; see :class:`tlserve.runtime.backend.Backend`."""
        if self.device == "cpu" and torch.get_num_threads() != self._threads:
            # The number is the process's: another backend may have set its own meanwhile.
            torch.set_num_threads(self._threads)
        with torch.inference_mode():
            result = self.model(torch.from_numpy(batch).to(self._device))
        logits: NDArray[np.float32] = result.float().cpu().numpy()
        return logits


def rebuild(bundle: Bundle) -> nn.Module:
    """Build the architecture with its replaced head and load the best checkpoint.

    Returns:
        The model on the CPU, float32, in evaluation mode.

    Raises:
        BundleFileError: The weights do not fit what ``bundle.json`` describes.
        ChecksumError: The weights were altered.
    """
    manifest = bundle.manifest
    path = bundle.verified("weights")
    model = fillable(
        manifest.architecture,
        manifest.head.num_classes,
        image_size=manifest.preprocessing.crop[0],
    )
    try:
        state = versioned(load_file(path), model)
        model.load_state_dict(state, strict=True, assign=True)
    except (RuntimeError, SafetensorError) as error:
        raise BundleFileError(
            f"The weights in {path} do not fit {manifest.architecture} with "
            f"{manifest.head.num_classes} classes: {' '.join(str(error).split())[:500]}",
            hint="Make the bundle again.",
        ) from error
    return model.eval()


def load(bundle: Bundle, _name: str, device: Device, threads: int | None) -> Backend:
    """Rebuild the model for running.

    Raises:
        BundleError: The bundle is not whole.
        DeviceError: CUDA was asked for and cannot be used.
    """
    target = torch_device(device)
    return TorchBackend(rebuild(bundle).to(target), target, threads)
