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


def stand_in(
    architecture: str, num_classes: int, side: int, *, passes: int = 3, images: int = 32
) -> nn.Module:
    """Build a network with random weights whose activations have the size of trained ones.

    A network that says the same of everything cannot prove an export. Freshly initialised batch
    normalisations let the signal die out: their statistics come from ``passes`` forward passes of
    ``images`` images each. Networks with layer normalisation start with blocks that do next to
    nothing (ConvNeXt scales them by 1e-6) and attention that looks nowhere in particular: these
    get weights of a size that matters.
    """
    torch.manual_seed(0)
    model = build(architecture, num_classes, image_size=side).eval()
    with torch.no_grad():
        if any(isinstance(module, nn.LayerNorm) for module in model.modules()):
            _wake(model)
        _normalise(model, side, passes, images)
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


def _wake(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
    for name, parameter in model.named_parameters():
        if name.endswith("layer_scale"):
            nn.init.ones_(parameter)
        elif name.endswith(("pos_embedding", "relative_position_bias_table")):
            nn.init.normal_(parameter, std=0.5)


def _normalise(model: nn.Module, side: int, passes: int, images: int) -> None:
    modules = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for module in modules:
        module.momentum = None
        module.train()
    for _ in range(passes if modules else 0):
        # Flat colours, smooth shapes and noise: what photographs and drawings are made of.
        flat, noise = torch.randn(images, 3, 1, 1), torch.randn(images, 3, side, side)
        small = torch.randn(images, 3, 4, 4)
        smooth = functional.interpolate(small, (side, side), mode="bicubic")
        model(flat + smooth + noise * torch.rand(images, 1, 1, 1))
