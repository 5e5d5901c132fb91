"""Building an architecture for any number of classes, and finding its head.

There is no table of heads. Torchvision's own builders take ``num_classes``, so the head is, by
definition, what changes its shape when the number of classes changes; this holds for ``fc``,
``classifier[-1]``, ``heads.head`` and whatever a later architecture calls it.
"""

from __future__ import annotations

import difflib
from functools import lru_cache

import torch
from torch import nn
from torchvision.models import get_model

from tlserve.errors import UsageError

ARCHITECTURES = (
    "efficientnet_b0",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "resnet18",
    "resnet50",
    "vgg16",
    "vit_b_16",
)
"""The architectures that the tests take through every stage."""

_INPUT_SIZED = ("vit_",)
"""Families whose parameters depend on the input size, so that the builder must be told it."""


def check_architecture(name: str) -> None:
    """See that an architecture is offered.

    Raises:
        UsageError: It is not; the nearest names are suggested.
    """
    if name in ARCHITECTURES:
        return
    near = difflib.get_close_matches(name.lower().replace("-", "_"), ARCHITECTURES, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(near)}? " if near else ""
    raise UsageError(
        f"Unknown architecture {name!r}.", hint=f"{hint}Known: {', '.join(ARCHITECTURES)}."
    )


def build(name: str, num_classes: int, *, image_size: int | None = None) -> nn.Module:
    """Build an architecture with random weights and a head of ``num_classes`` outputs.

    Args:
        name: One of :data:`ARCHITECTURES`.
        num_classes: The number of outputs.
        image_size: The side of the square input in pixels; matters to architectures with a position
            embedding only, and defaults to the one that their weights were trained at.

    Returns:
        The module, in training mode, float32; its ``state_dict`` has torchvision's own keys.
    """
    check_architecture(name)
    options = {}
    if image_size is not None and name.startswith(_INPUT_SIZED):
        options["image_size"] = image_size
    model: nn.Module = get_model(name, weights=None, num_classes=num_classes, **options)
    return model


def skeleton(name: str, num_classes: int, *, image_size: int | None = None) -> nn.Module:
    """Build an architecture without memory for its parameters (on the meta device): shapes only."""
    with torch.device("meta"):
        return build(name, num_classes, image_size=image_size)


@lru_cache(maxsize=16)
def head_parameters(name: str) -> tuple[str, ...]:
    """Name the parameters of the head: those whose shape depends on the number of classes."""
    few, more = skeleton(name, 2).state_dict(), skeleton(name, 3).state_dict()
    return tuple(key for key in few if few[key].shape != more[key].shape)


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """Count the parameters of a model: (all, those that require a gradient)."""
    parameters = list(model.parameters())
    return (
        sum(p.numel() for p in parameters),
        sum(p.numel() for p in parameters if p.requires_grad),
    )
