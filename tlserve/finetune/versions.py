"""The versions that a trained model depends on."""

from __future__ import annotations

import platform

import numpy
import PIL
import torch
import torchvision

import tlserve


def versions() -> dict[str, str]:
    """Give the versions of Python, of the package and of the libraries that compute."""
    return {
        "tlserve": tlserve.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "pillow": PIL.__version__,
        "numpy": numpy.__version__,
    }
