"""Which parameters a strategy trains, and in which mode each module runs meanwhile."""

from __future__ import annotations

from itertools import pairwise

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from tlserve.finetune.config import Strategy
from tlserve.zoo.architectures import head_parameters


def freeze(model: nn.Module, architecture: str, strategy: Strategy) -> list[nn.Parameter]:
    """Let only the strategy's parameters require a gradient.

    Returns:
        Those parameters: what the optimiser gets.
    """
    head = head_parameters(architecture)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(strategy == "full" or name in head)
    return [p for p in model.parameters() if p.requires_grad]


def train_mode(model: nn.Module) -> None:
    """Put what is trained in training mode and leave what is frozen in evaluation mode.

    A frozen batch normalisation must not update its statistics, and frozen layers must not drop
    activations: both would change what the layers above were given. The dropout that belongs to the
    head, right before it in the same container, stays active.
    """
    model.train()
    if all(p.requires_grad for p in model.parameters()):
        return
    model.eval()
    for module in model.modules():
        own = list(module.parameters(recurse=False))
        if own and all(p.requires_grad for p in own):
            module.train()
        if isinstance(module, nn.Sequential):
            _wake_dropout(module)


def frozen_batch_norms(model: nn.Module) -> list[nn.Module]:
    """List the batch normalisations that are in evaluation mode."""
    return [m for m in model.modules() if isinstance(m, _BatchNorm) and not m.training]


def _wake_dropout(container: nn.Sequential) -> None:
    layers = list(container)
    for before, after in pairwise(layers):
        parameters = list(after.parameters())
        is_trained = bool(parameters) and all(p.requires_grad for p in parameters)
        if isinstance(before, nn.Dropout) and is_trained:
            before.train()
