"""Mixed precision, where the device has it.

Micikevicius et al. 2018, https://arxiv.org/abs/1710.03740.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch

from tlserve.errors import DeviceError
from tlserve.finetune.config import Precision


class MixedPrecision:
    """The type of the forward pass, and the scaling of the loss that float16 needs.

    Attributes:
        dtype: ``None`` for float32.
        scaler: Does nothing but for float16.
    """

    def __init__(self, precision: Precision, device: torch.device) -> None:
        self.dtype = _dtype(precision, device)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype is torch.float16)
        self._device = device

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Run the block's matrix products and convolutions in the chosen type."""
        if self.dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self._device.type, dtype=self.dtype)


def _dtype(precision: Precision, device: torch.device) -> torch.dtype | None:
    on_gpu = device.type == "cuda"
    if precision == "float32":
        return None
    if precision == "auto":
        # Emulated bfloat16 is slower than float32.
        fast = on_gpu and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if fast else None
    if precision == "fp16":
        if not on_gpu:
            raise DeviceError(
                f"--precision fp16 needs a GPU; the device is {device.type}.",
                hint="Use --precision auto.",
            )
        return torch.float16
    if on_gpu and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise DeviceError(
            "--precision bf16 needs a GPU of compute capability 8.0 or more.",
            hint="Use --precision fp16 or auto.",
        )
    return torch.bfloat16
