"""What is minimised: cross-entropy, over mixed images, weighted classes and auxiliary heads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.transforms import v2

from tlserve.data.folder import Sample
from tlserve.finetune.config import Recipe


class Objective:
    """The loss of a batch.

    Mixup: Zhang et al. 2018, https://arxiv.org/abs/1710.09412. CutMix: Yun et al. 2019,
    https://arxiv.org/abs/1905.04899. With both, each batch gets one of them. Label smoothing:
    Szegedy et al. 2016, https://arxiv.org/abs/1512.00567.
    """

    def __init__(
        self,
        recipe: Recipe,
        samples: Sequence[Sample],
        num_classes: int,
        auxiliary_weight: float,
        device: torch.device,
    ) -> None:
        self._smoothing = recipe.label_smoothing or 0.0
        self._auxiliary_weight = auxiliary_weight
        self._weights: Tensor | None = None
        if recipe.balance == "class-weights":
            self._weights = class_weights(samples, num_classes).to(device)
        mixes: list[Any] = []
        if recipe.mixup:
            mixes.append(v2.MixUp(alpha=recipe.mixup, num_classes=num_classes))
        if recipe.cutmix:
            mixes.append(v2.CutMix(alpha=recipe.cutmix, num_classes=num_classes))
        self._mix = v2.RandomChoice(mixes) if mixes else None

    def mixed(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mix the images of a batch.

        Args:
            images: float32 [N, 3, height, width].
            labels: int64 [N].

        Returns:
            The images, and labels float32 [N, classes] if they are mixed.
        """
        if self._mix is None:
            return images, labels
        mixed: tuple[Tensor, Tensor] = self._mix(images, labels)
        return mixed

    def __call__(self, outputs: Tensor | tuple[Tensor, ...], labels: Tensor) -> Tensor:
        """Give the loss: of the logits, and of auxiliary heads that come after them in a tuple."""
        if isinstance(outputs, Tensor):
            return self._cross_entropy(outputs, labels)
        logits, *auxiliary = outputs
        loss = self._cross_entropy(logits, labels)
        for other in auxiliary:
            loss = loss + self._auxiliary_weight * self._cross_entropy(other, labels)
        return loss

    def _cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(
            logits.float(), labels, weight=self._weights, label_smoothing=self._smoothing
        )


def class_weights(samples: Sequence[Sample], num_classes: int) -> Tensor:
    """Weigh classes against their number of images, 1 on average over the images.

    Returns:
        float32 [classes].
    """
    counts = Counter(sample.label for sample in samples)
    return torch.tensor([len(samples) / (num_classes * counts[c]) for c in range(num_classes)])
