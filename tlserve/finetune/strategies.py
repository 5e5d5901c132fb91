"""Which blocks a strategy trains, how fast each learns, and in which mode each runs meanwhile.

The learning rates of ``discriminative`` and ``gradual`` and the unfreezing from the top follow
Howard and Ruder 2018 (ULMFiT, https://arxiv.org/abs/1801.06146); a rate that falls by a factor from
block to block (``layer_decay``) is that of Bao et al. 2022 (BEiT, https://arxiv.org/abs/2106.08254).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from torch import Tensor, nn

from tlserve.errors import UsageError
from tlserve.finetune.config import Recipe
from tlserve.zoo.blocks import Block

_LAST_BLOCKS = 1 / 3
"""The share of a network's blocks that counts as the last ones."""

_UNFROZEN_AFTER = 2 / 3
"""``gradual``: the share of the epochs after which every block is trained."""

_TENTH = 0.1


@dataclass(frozen=True)
class Stage:
    """Epochs, from ``first`` to ``last``, in which the same ``opened`` last blocks are trained."""

    first: int
    last: int
    opened: int


@dataclass(frozen=True)
class Plan:
    """What a strategy does to the blocks of a network.

    Attributes:
        blocks: From stem to head.
        rates: The learning rate of each block, once it is trained.
        first: How many of the last blocks are trained from the first epoch on.
        last: How many are in the end; blocks between are unfrozen one after the other.
        unfrozen_at: The epoch from which on ``last`` blocks are trained.
    """

    blocks: tuple[Block, ...]
    rates: tuple[float, ...]
    first: int
    last: int
    unfrozen_at: int = 1

    def opened(self, epoch: int) -> int:
        """Tell how many of the last blocks are trained in an epoch, from 1."""
        if epoch >= self.unfrozen_at:
            return self.last
        share = (epoch - 1) / (self.unfrozen_at - 1)
        return self.first + math.floor((self.last - self.first) * share)

    def stages(self, epochs: int) -> tuple[Stage, ...]:
        """Divide ``epochs`` epochs by what is trained in them."""
        numbers = groupby(range(1, epochs + 1), key=self.opened)
        parts = [(opened, list(part)) for opened, part in numbers]
        return tuple(Stage(part[0], part[-1], opened) for opened, part in parts)

    def trained_from(self, number: int) -> int:
        """Tell the epoch, from 1, from which a block is trained; 0: it never is."""
        needed = len(self.blocks) - number
        if needed > self.last:
            return 0
        return next(e for e in range(1, self.unfrozen_at + 1) if self.opened(e) >= needed)


def make_plan(recipe: Recipe, blocks: tuple[Block, ...], lr: float) -> Plan:
    """Apply a strategy to a network's blocks.

    Args:
        recipe: Its strategy and the strategy's settings.
        blocks: From stem to head.
        lr: The head's learning rate.

    Raises:
        UsageError: ``--freeze`` or ``--unfreeze`` do not fit the number of blocks.
    """
    count = len(blocks)
    last = _trained(recipe, count)
    first, unfrozen_at = last, 1
    if recipe.strategy == "gradual":
        first, unfrozen_at = 1, max(1, round(recipe.epochs * _UNFROZEN_AFTER))
        if unfrozen_at == 1:
            first = last
    return Plan(blocks, _rates(recipe, count, lr), first, last, unfrozen_at)


def freeze(model: nn.Module, blocks: Sequence[Block], opened: int) -> None:
    """Let only the parameters of the last ``opened`` blocks require a gradient."""
    trained = {name for block in blocks[len(blocks) - opened :] for name in block.parameters}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)


def train_mode(model: nn.Module, blocks: Sequence[Block], opened: int) -> None:
    """Put the last ``opened`` blocks in training mode and leave what is frozen in evaluation mode.

    A frozen batch normalisation must not update its statistics, and frozen layers must not drop
    activations: both would change what the layers above were given.
    """
    model.eval()
    # The network itself, but none of its parts: auxiliary heads answer in training mode only.
    model.training = True
    for block in blocks[len(blocks) - opened :]:
        for path in block.modules:
            model.get_submodule(path).train()


def moving_state(model: nn.Module, blocks: Sequence[Block], opened: int) -> dict[str, Tensor]:
    """Give what training the last ``opened`` blocks changes of a model's state dict."""
    frozen = blocks[: len(blocks) - opened]
    parameters = {name for block in frozen for name in block.parameters}
    modules = tuple(f"{path}." for block in frozen for path in block.modules)
    return {
        name: value
        for name, value in model.state_dict().items()
        if name not in parameters and not name.startswith(modules)
    }


def load_moving_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Put back what :func:`moving_state` gave."""
    model.load_state_dict({**model.state_dict(), **state})


def last_blocks(count: int) -> int:
    """Tell how many of ``count`` blocks are the last ones: a third, and more than the head."""
    return min(count, max(2, round(count * _LAST_BLOCKS)))


def _trained(recipe: Recipe, count: int) -> int:
    if recipe.strategy == "feature-extraction":
        return 1
    if recipe.strategy != "partial":
        return count
    given = recipe.unfreeze or recipe.freeze
    if given is not None and given >= count + bool(recipe.unfreeze):
        option = f"--{'unfreeze' if recipe.unfreeze else 'freeze'} {given}"
        raise UsageError(
            f"{option}: the network has {count} blocks.",
            hint="`tlserve inspect ARCH` lists them; --strategy full trains all.",
        )
    if recipe.freeze:
        return count - recipe.freeze
    return recipe.unfreeze or last_blocks(count)


def _rates(recipe: Recipe, count: int, lr: float) -> tuple[float, ...]:
    depths = range(count - 1, -1, -1)
    if recipe.layer_decay is not None:
        return tuple(lr * recipe.layer_decay**depth for depth in depths)
    if recipe.strategy not in ("discriminative", "gradual"):
        return (lr,) * count
    last = last_blocks(count)
    tenths = [0 if depth == 0 else 1 if depth < last else 2 for depth in depths]
    return tuple(lr * _TENTH**tenth for tenth in tenths)
