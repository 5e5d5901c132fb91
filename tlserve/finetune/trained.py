"""What training led to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tlserve.bundle.manifest import Epoch
from tlserve.finetune.evaluate import Evaluation


@dataclass(frozen=True)
class Trained:
    """The outcome of training.

    Attributes:
        checkpoint: The best epoch's state dict, a file of its own.
        best_epoch: Which epoch that was, from 1; 0: what training began with.
        best: What it did on the validation set.
        history: All epochs.
        trainable: How many parameters were trained.
        optimizer_bytes: What the optimiser kept beside the parameters.
        seconds: How long it took, in all the processes that it took.
    """

    checkpoint: Path
    best_epoch: int
    best: Evaluation
    history: tuple[Epoch, ...]
    trainable: int
    optimizer_bytes: int
    seconds: float
