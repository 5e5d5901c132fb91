"""Measuring a model on the validation set."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from tlserve.data.loading import Inputs
from tlserve.finetune.events import Events

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
) -> Evaluation:
    """Run a model over batches of inputs and labels, in evaluation mode, float32."""
    model.eval()
    logits: list[Tensor] = []
    labels: list[Tensor] = []
    with torch.inference_mode():
        for inputs, label in batches:
            logits.append(model(*on_device(inputs, device)).cpu())
            labels.append(label)
            events.advance(len(label))
    return measure(torch.cat(logits), torch.cat(labels))


def measure(logits: Tensor, labels: Tensor) -> Evaluation:
    """Compare logits, float32 [N, classes], with labels, int64 [N]."""
    return Evaluation(
        loss=float(functional.cross_entropy(logits.double(), labels)),
        correct=int((logits.argmax(1) == labels).sum()),
        images=len(labels),
    )
