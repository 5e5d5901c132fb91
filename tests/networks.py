"""Networks for tests."""

from __future__ import annotations

from functools import cache

import torch
from torch import nn
from torch.nn import functional

from tlserve.zoo.architectures import build, skeleton


@cache
def shapes(architecture: str, num_classes: int) -> nn.Module:
    """Give a network without memory for its parameters; not to be changed."""
    return skeleton(architecture, num_classes)


def stand_in(architecture: str, num_classes: int, side: int) -> nn.Module:
    """Build a network with random weights whose activations have the size of trained ones.

    Freshly initialised batch normalisations let the signal die out, and a network that says the
    same of everything cannot prove an export: their statistics come from a few forward passes.
    """
    torch.manual_seed(0)
    model = build(architecture, num_classes, image_size=side).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
            module.train()
    with torch.no_grad():
        for _ in range(3):
            # Flat colours, smooth shapes and noise: what photographs and drawings are made of.
            flat, noise = torch.randn(32, 3, 1, 1), torch.randn(32, 3, side, side)
            smooth = functional.interpolate(torch.randn(32, 3, 4, 4), (side, side), mode="bicubic")
            model(flat + smooth + noise * torch.rand(32, 1, 1, 1))
    return model.eval()


def filled(architecture: str, num_classes: int, side: int) -> nn.Module:
    """Build a network whose parameters are cheap to make and let a gradient through.

    The initial values of some architectures take longer than everything else in a test, and a head
    of zeros, as vision transformers begin with, gives the layers below no gradient.
    """
    model = skeleton(architecture, num_classes, image_size=side)
    noise = torch.randn(2**20, generator=torch.Generator().manual_seed(0))
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            value = torch.ones(parameter.shape)
            if parameter.dim() > 1 or "norm" not in type(module).__name__.lower():
                fan = parameter[0].numel() if parameter.dim() > 1 else 100
                count = parameter.numel()
                repeated = noise.repeat(1 + count // len(noise))[:count]
                value = (repeated * fan**-0.5).reshape(parameter.shape)
            module.register_parameter(name, nn.Parameter(value))
        for name, buffer in list(module.named_buffers(recurse=False)):
            if buffer.is_meta:
                start = torch.zeros if "mean" in name else torch.ones
                module.register_buffer(name, start(buffer.shape))
    return model
