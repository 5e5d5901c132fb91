"""An exponential moving average of the weights.

Polyak and Juditsky 1992; as commonly used for image classifiers, Tan and Le 2019
(https://arxiv.org/abs/1905.11946).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def averaged(model: nn.Module, decay: float) -> AveragedModel:
    """Begin the moving average of a model's parameters and buffers; of what counts, the last.

    In the first steps the decay is smaller, (1 + n) / (10 + n), or a short run's average would be
    its beginning.
    """

    def update(mean: Sequence[Tensor], current: Sequence[Tensor], count: Tensor | int) -> None:
        if not current[0].is_floating_point():
            # Rounded down, an average of counts would fall although what it averages stays.
            torch._foreach_copy_(list(mean), list(current))
            return
        now = min(decay, (1 + int(count)) / (10 + int(count)))
        get_ema_multi_avg_fn(now)(mean, current, count)  # type: ignore[no-untyped-call]

    return AveragedModel(model, multi_avg_fn=update, use_buffers=True)
