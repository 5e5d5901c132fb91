"""The device contract for the backends that run on torch."""

from __future__ import annotations

import torch

from tlserve.errors import DeviceError


def torch_device(name: str, number: int = 0) -> torch.device:
    """Give a torch device that is known to work.

    Args:
        name: ``cpu``, ``cuda`` or ``auto`` (CUDA where there is a device, else the CPU).
        number: Which of several CUDA devices.

    Raises:
        DeviceError: CUDA was asked for and cannot be used.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        build = torch.version.cuda or "none"
        raise DeviceError(
            f"torch finds no usable CUDA device (torch {torch.__version__}, built for CUDA "
            f"{build}).",
            hint="Check `nvidia-smi` and the driver, or use --device cpu.",
        )
    return torch.device(name, number) if name == "cuda" else torch.device(name)


def exact_float32() -> None:
    """Let GPUs compute with all 23 bits of float32, as parity is measured.

    TensorFloat-32, which torch allows in convolutions, keeps 10.
    """
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
