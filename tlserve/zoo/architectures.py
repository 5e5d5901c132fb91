"""Building an architecture for any number of classes, and finding its head.

There is no table of heads. Torchvision's own builders take ``num_classes``, so the head is, by
definition, what changes its shape when the number of classes changes; this holds for ``fc``,
``classifier[-1]``, ``heads.head``, a convolution, auxiliary heads, and whatever a later
architecture calls it. Architectures named ``timm/…`` are timm's: :mod:`tlserve.zoo.timm` builds
them, and the same holds.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
import torchvision
from torch import nn
from torch.overrides import TorchFunctionMode
from torchvision.models import get_model, list_models

from tlserve.errors import UsageError
from tlserve.zoo.names import is_timm, nearest

_OPTIONS: dict[str, dict[str, Any]] = {
    # Their weights were trained on inputs that these networks scale by themselves; without an
    # explicit init_weights they warn of a default to come.
    "googlenet": {"transform_input": True, "init_weights": True},
    "inception_v3": {"transform_input": True, "init_weights": True},
}
"""Options of torchvision's builders that an architecture needs."""

_SIZED: dict[str, Callable[[int], dict[str, Any]]] = {
    "vit_": lambda side: {"image_size": side},
    "maxvit_": lambda side: {"input_size": (side, side)},
}
"""Families that must be told the input's size, by the prefix of their names."""

_AUXILIARY_WEIGHT = {"googlenet": 0.3, "inception_v3": 0.4}
"""The weight of the loss of each auxiliary head beside that of the head.

GoogLeNet: Szegedy et al. 2015, https://arxiv.org/abs/1409.4842. Inception v3: as in PyTorch's
fine-tuning tutorial; the paper (https://arxiv.org/abs/1512.00567) gives no number.
"""


@lru_cache(maxsize=1)
def architectures() -> tuple[str, ...]:
    """Name the classifiers of the installed torchvision."""
    return tuple(list_models(module=torchvision.models))


def check_architecture(name: str) -> None:
    """See that an architecture is offered.

    Raises:
        UsageError: It is not, and the nearest names are suggested; or it is no classifier.
        MissingDependencyError: It is one of timm's, which is not installed.
    """
    if is_timm(name):
        if not head_parameters(name):
            raise UsageError(
                f"{name} is no classifier: the number of classes changes nothing in it.",
                hint="Choose another architecture.",
            )
    elif name not in architectures():
        near = nearest(name, architectures())
        hint = f"Did you mean {' or '.join(near)}? " if near else ""
        raise UsageError(
            f"Unknown architecture {name!r}.",
            hint=f"{hint}`tlserve inspect` lists all {len(architectures())}.",
        )


def build(name: str, num_classes: int, *, image_size: int | None = None) -> nn.Module:
    """Build an architecture with random weights and a head of ``num_classes`` outputs.

    Args:
        name: One of :func:`architectures`, or one of timm's.
        num_classes: The number of outputs.
        image_size: The side of the square input in pixels; matters to architectures with a position
            embedding only, and defaults to the one that they were published with.

    Returns:
        The module, in training mode, float32; its ``state_dict`` has the library's own keys.

    Raises:
        UsageError: There is no such architecture.
        MissingDependencyError: It is one of timm's, which is not installed.
    """
    if is_timm(name):
        from tlserve.zoo import timm

        return timm.create(name, num_classes, image_size)
    check_architecture(name)
    options = dict(_OPTIONS.get(name, {}))
    if image_size is not None:
        for prefix, sized in _SIZED.items():
            if name.startswith(prefix):
                options |= sized(image_size)
    model: nn.Module = get_model(name, weights=None, num_classes=num_classes, **options)
    return model


def skeleton(name: str, num_classes: int, *, image_size: int | None = None) -> nn.Module:
    """Build an architecture without memory for its parameters: shapes only."""
    with _NoMemory():
        return build(name, num_classes, image_size=image_size)


def fillable(name: str, num_classes: int, *, image_size: int | None = None) -> nn.Module:
    """Build an architecture that ``load_state_dict(..., strict=True, assign=True)`` completes.

    It has no memory for its parameters either, unless that would leave tables empty which it
    computes for itself and which no state dict holds, as many of timm's do.
    """
    model = skeleton(name, num_classes, image_size=image_size)
    loaded = model.state_dict().keys()
    if any(buffer.is_meta and key not in loaded for key, buffer in model.named_buffers()):
        model = build(name, num_classes, image_size=image_size)
    return model


class _NoMemory(TorchFunctionMode):
    """Put what a module allocates for its parameters on the meta device.

    Unlike ``torch.device("meta")`` it leaves arithmetic alone: RegNet computes its widths with
    tensors, and Swin's tables of positions are constants that hold values.
    """

    _ALLOCATE = frozenset({torch.empty, torch.zeros, torch.ones, torch.full, torch.randn})

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        elsewhere = {"device": "meta"} if func in self._ALLOCATE else {}
        return func(*args, **((kwargs or {}) | elsewhere))


@lru_cache(maxsize=128)
def head_parameters(name: str) -> tuple[str, ...]:
    """Name the parameters of the head: those whose shape depends on the number of classes."""
    few, more = skeleton(name, 2).state_dict(), skeleton(name, 3).state_dict()
    return tuple(key for key in few if few[key].shape != more[key].shape)


def check_input_size(name: str, side: int) -> None:
    """See that a network can be trained on square images of ``side`` pixels.

    Raises:
        UsageError: Its layers do not fit such an input.
    """
    try:
        model = skeleton(name, 2, image_size=side).to("meta").train()
        model(torch.empty(2, 3, side, side, device="meta"))
    except (AssertionError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(
            f"{name} does not take images of {side} x {side} pixels: {reason}",
            hint="Leave --image-size out: the size that the weights were trained at always fits.",
        ) from error


def auxiliary_weight(name: str) -> float:
    """Give the weight of an auxiliary head's loss in training."""
    return _AUXILIARY_WEIGHT.get(name, 0.0)


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """Count the parameters of a model: (all, those that require a gradient)."""
    parameters = list(model.parameters())
    return (
        sum(p.numel() for p in parameters),
        sum(p.numel() for p in parameters if p.requires_grad),
    )
