"""The optimiser: it holds the parameters that are trained, and no others."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from tlserve.finetune.config import Recipe
from tlserve.finetune.strategies import Plan

BASE_LR = "base_lr"
"""The key of a group's learning rate before the schedule's factor."""


def make_optimizer(model: nn.Module, recipe: Recipe, plan: Plan, opened: int) -> Optimizer:
    """Make the optimiser of the last ``opened`` blocks."""
    groups = parameter_groups(model, recipe, plan, 0, opened)
    match recipe.optimizer:
        case "sgd":
            return SGD(groups, momentum=recipe.momentum, nesterov=recipe.momentum > 0)
        case "adamw":
            return AdamW(groups)
        case _:
            return Adam(groups)


def parameter_groups(
    model: nn.Module, recipe: Recipe, plan: Plan, before: int, opened: int
) -> list[dict[str, Any]]:
    """Give the groups of the last ``opened`` blocks, but for the last ``before``.

    Each block has up to two: what decays, and biases and normalisation, which do not (He et al.
    2019, section 3.1, https://arxiv.org/abs/1812.01187).
    """
    parameters = dict(model.named_parameters())
    count = len(plan.blocks)
    groups = []
    # The head first, so that its rate is that of the first group.
    for index in range(count - before - 1, count - opened - 1, -1):
        mine = [parameters[name] for name in plan.blocks[index].parameters]
        rate = plan.rates[index]
        for decayed in (True, False):
            part = [p for p in mine if (p.dim() > 1) is decayed]
            if part:
                decay = recipe.weight_decay if decayed else 0.0
                groups.append(
                    {"params": part, "lr": rate, BASE_LR: rate, "weight_decay": decay or 0.0}
                )
    return groups


def set_factor(optimizer: Optimizer, factor: float) -> None:
    """Multiply the rate of every group by a schedule's factor."""
    for group in optimizer.param_groups:
        group["lr"] = group[BASE_LR] * factor


def state_bytes(optimizer: Optimizer) -> int:
    """Count the bytes that the optimiser keeps beside the parameters."""
    return sum(
        value.numel() * value.element_size()
        for state in optimizer.state.values()
        for value in state.values()
        if hasattr(value, "element_size")
    )
