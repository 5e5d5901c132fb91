"""Measuring a model on the validation set."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from tlserve.data.loading import Inputs
from tlserve.finetune.events import Events
from tlserve.finetune.ranks import ALONE, Ranks

MEMORY_FORMAT = torch.channels_last
"""How images lie in memory: convolutions are faster on channels that are neighbours."""


@dataclass(frozen=True)
class Evaluation:
    """What a model did on a set of images.

    Attributes:
        loss: The mean cross-entropy.
        correct: How many images got their own class.
        images: How many there were.
    """

    loss: float
    correct: int
    images: int

    @property
    def accuracy(self) -> float:
        """The share of images that got their own class."""
        return self.correct / self.images

    def better_than(self, other: Evaluation | None) -> bool:
        """Compare by accuracy; at the same accuracy, by loss."""
        return other is None or (self.correct, -self.loss) > (other.correct, -other.loss)


def on_device(inputs: Inputs, device: torch.device) -> tuple[Tensor, ...]:
    """Bring a network's inputs to where it is, those with four axes channels last."""
    tensors = inputs if isinstance(inputs, tuple) else (inputs,)
    return tuple(
        t.to(
            device,
            non_blocking=True,
            memory_format=MEMORY_FORMAT if t.dim() == 4 else torch.preserve_format,
        )
        for t in tensors
    )


def evaluate(
    model: nn.Module,
    batches: Iterable[tuple[Inputs, Tensor]],
    device: torch.device,
    events: Events,
    ranks: Ranks = ALONE,
) -> Evaluation:
    """Run a model over batches of inputs and labels, in evaluation mode, float32.

    Of several processes each runs its own batches, every ``count``-th. No image is counted twice,
    and each process gets the result of all.
    """
    model.eval()
    parts: list[_Compared] = []
    with torch.inference_mode():
        for inputs, labels in batches:
            parts.append(_compare(model(*on_device(inputs, device)).cpu(), labels))
            events.advance(len(labels) * ranks.count)
    return _evaluation(ranks.interleaved(parts))


def measure(logits: Tensor, labels: Tensor) -> Evaluation:
    """Compare logits, float32 [N, classes], with labels, int64 [N]."""
    return _evaluation([_compare(logits, labels)])


_Compared = tuple[Tensor, Tensor]
"""Of each image the loss, float64, and whether it got its own class."""


def _compare(logits: Tensor, labels: Tensor) -> _Compared:
    losses = functional.cross_entropy(logits.double(), labels, reduction="none")
    return losses, logits.argmax(1) == labels


def _evaluation(parts: Sequence[_Compared]) -> Evaluation:
    losses = torch.cat([loss for loss, _ in parts])
    right = torch.cat([right for _, right in parts])
    return Evaluation(float(losses.mean()), int(right.sum()), len(losses))
