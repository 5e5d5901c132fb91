"""How the learning rates change: torch's schedulers, for groups that may still be added."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    LinearLR,
    LRScheduler,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)

from tlserve.finetune.config import Recipe

_PLATEAU_PATIENCE = 2
_PLATEAU_FACTOR = 0.3
_STEPS_DOWN = 3
_STEP_FACTOR = 0.1
_WARMUP_START = 0.01


class Schedule:
    """The factor on every group's learning rate.

    Torch's schedulers know the groups of an optimiser from its beginning, and gradual unfreezing
    adds some later: so they drive one rate of 1 here, and that is the factor for all.
    """

    def __init__(self, recipe: Recipe, steps_an_epoch: int) -> None:
        self._rate = SGD([torch.zeros(1)], lr=1.0)
        self._plateau: ReduceLROnPlateau | None = None
        self._in_time: LRScheduler | None = None
        if recipe.schedule == "plateau":
            self._plateau = ReduceLROnPlateau(
                self._rate, factor=_PLATEAU_FACTOR, patience=_PLATEAU_PATIENCE
            )
        else:
            self._in_time = _in_time(self._rate, recipe, steps_an_epoch)

    @property
    def factor(self) -> float:
        """What to multiply each group's rate by now."""
        return float(self._rate.param_groups[0]["lr"])

    def after_step(self) -> None:
        """Count an optimiser step."""
        if self._in_time is not None:
            with warnings.catch_warnings():
                # The stand-in optimiser takes no steps, which torch would remark upon.
                warnings.simplefilter("ignore", UserWarning)
                self._in_time.step()

    def after_epoch(self, val_loss: float) -> None:
        """Count an epoch."""
        if self._plateau is not None:
            self._plateau.step(val_loss)

    def state_dict(self) -> dict[str, Any]:
        """Give its state, as plain values."""
        scheduler = self._in_time or self._plateau
        return {"rate": self.factor, "scheduler": scheduler and scheduler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self._rate.param_groups[0]["lr"] = state["rate"]
        scheduler = self._in_time or self._plateau
        if scheduler is not None:
            scheduler.load_state_dict(state["scheduler"])


def _in_time(rate: SGD, recipe: Recipe, steps_an_epoch: int) -> LRScheduler:
    total = recipe.epochs * steps_an_epoch
    warmup = min(round((recipe.warmup or 0.0) * steps_an_epoch), total - 1)
    rest = max(1, total - warmup)
    main: LRScheduler
    match recipe.schedule:
        case "cosine":
            main = CosineAnnealingLR(rate, T_max=rest)
        case "step":
            main = StepLR(rate, step_size=math.ceil(rest / _STEPS_DOWN), gamma=_STEP_FACTOR)
        case _:
            main = ConstantLR(rate, factor=1.0)
    if warmup == 0:
        return main
    rising = LinearLR(rate, start_factor=_WARMUP_START, total_iters=warmup)
    return SequentialLR(rate, [rising, main], milestones=[warmup])
