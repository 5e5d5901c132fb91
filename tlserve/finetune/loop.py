"""The training loop, from top to bottom."""

from __future__ import annotations

import csv
import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save
from torch import nn
from torch.nn import functional
from torch.optim import Adam
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import DataLoader

from tlserve.bundle.files import replacing
from tlserve.bundle.manifest import Epoch
from tlserve.data.loading import Batch, ViewBatches
from tlserve.errors import TlserveError
from tlserve.finetune.config import FinetuneConfig
from tlserve.finetune.evaluate import MEMORY_FORMAT, Evaluation, evaluate
from tlserve.finetune.events import Events
from tlserve.finetune.strategies import freeze, train_mode

_PLATEAU_PATIENCE = 2
_PLATEAU_FACTOR = 0.3


@dataclass(frozen=True)
class Trained:
    """The outcome of training.

    Attributes:
        checkpoint: The best epoch's state dict, a file of its own.
        best_epoch: Which epoch that was, from 1.
        best: What it did on the validation set.
        history: All epochs.
    """

    checkpoint: Path
    best_epoch: int
    best: Evaluation
    history: tuple[Epoch, ...]


def train(
    model: nn.Module,
    config: FinetuneConfig,
    train_batches: DataLoader[Batch],
    views: ViewBatches,
    val_batches: DataLoader[Batch],
    device: torch.device,
    run: Path,
    events: Events,
) -> Trained:
    """Train, and keep the best epoch as a copy on disk.

    Best is the epoch with the highest validation accuracy; at the same accuracy, the lowest loss.

    Args:
        model: On ``device``, in :data:`MEMORY_FORMAT`.
        config: Resolved settings.
        train_batches: Augmented images; ``views`` is its sampler.
        views: Told the epoch, so that each has views of its own.
        val_batches: Validation images.
        device: Where to train.
        run: The folder for ``best.safetensors`` and ``history.csv``.
        events: Told what happens.

    Raises:
        TlserveError: The loss is no longer a number.
        StorageError: The disk refused.
    """
    parameters = freeze(model, config.arch, config.strategy)
    optimizer = Adam(parameters, lr=config.lr or 0.0)
    scheduler = ReduceLROnPlateau(
        optimizer, mode="min", factor=_PLATEAU_FACTOR, patience=_PLATEAU_PATIENCE
    )
    checkpoint = run / "best.safetensors"
    history: list[Epoch] = []
    best: Evaluation | None = None
    best_epoch = 0

    for number in range(1, config.epochs + 1):
        started = time.monotonic()
        views.epoch = number
        events.begin(f"epoch {number}/{config.epochs}", views.count)
        train_loss = _train_epoch(model, train_batches, optimizer, device, events)
        events.begin("validation", len(val_batches.dataset))  # type: ignore[arg-type]
        result = evaluate(model, val_batches, device, events)
        events.end()
        if not math.isfinite(train_loss + result.loss):
            raise TlserveError(
                f"Training diverged in epoch {number}: the loss is {train_loss}.",
                hint=f"Use a learning rate below --lr {config.lr}.",
            )
        epoch = Epoch(
            epoch=number,
            train_loss=train_loss,
            val_loss=result.loss,
            val_accuracy=result.accuracy,
            lr=float(optimizer.param_groups[0]["lr"]),
            seconds=round(time.monotonic() - started, 3),
        )
        history.append(epoch)
        is_best = best is None or (result.correct, -result.loss) > (best.correct, -best.loss)
        if is_best:
            best, best_epoch = result, number
            save_weights(model, checkpoint)
        _write_history(run / "history.csv", history)
        events.epoch(epoch, config.epochs, best=is_best)
        if number - best_epoch >= config.patience and number < config.epochs:
            events.message(f"No better epoch in {config.patience}: stopped early.")
            break
        scheduler.step(result.loss)

    assert best is not None  # noqa: S101 - there is at least one epoch
    return Trained(checkpoint, best_epoch, best, tuple(history))


def save_weights(model: nn.Module, path: Path) -> None:
    """Write a model's state dict as safetensors: a copy, whole or not at all."""
    state = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    with replacing(path) as temporary:
        # Written by Python rather than by safetensors, whose errors hide what the disk said.
        temporary.write_bytes(save(state))


def _train_epoch(
    model: nn.Module,
    batches: DataLoader[Batch],
    optimizer: Adam,
    device: torch.device,
    events: Events,
) -> float:
    train_mode(model)
    # Summed on the device: reading the loss at each step would wait for it.
    total = torch.zeros((), device=device)
    count = 0
    for images, labels in batches:
        images = images.to(device, non_blocking=True, memory_format=MEMORY_FORMAT)
        labels = labels.to(device, non_blocking=True)
        loss = functional.cross_entropy(model(images), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        total += loss.detach() * len(labels)
        count += len(labels)
        events.advance(len(labels))
    return float(total) / count


def _write_history(path: Path, history: list[Epoch]) -> None:
    with replacing(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(Epoch.model_fields))
        writer.writeheader()
        writer.writerows(epoch.model_dump() for epoch in history)
