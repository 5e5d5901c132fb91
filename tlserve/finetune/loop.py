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

from tlserve.bundle.files import replacing
from tlserve.bundle.manifest import Epoch
from tlserve.errors import TlserveError
from tlserve.finetune.average import averaged
from tlserve.finetune.compiling import compiled
from tlserve.finetune.config import FinetuneConfig
from tlserve.finetune.evaluate import Evaluation, evaluate
from tlserve.finetune.feed import make_feed
from tlserve.finetune.optimizer import state_bytes
from tlserve.finetune.schedule import Schedule
from tlserve.finetune.session import Session
from tlserve.finetune.stepper import Stepper
from tlserve.finetune.strategies import make_plan
from tlserve.zoo.architectures import count_parameters


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
    """

    checkpoint: Path
    best_epoch: int
    best: Evaluation
    history: tuple[Epoch, ...]
    trainable: int
    optimizer_bytes: int


def train(session: Session, config: FinetuneConfig, *, begun: Evaluation | None = None) -> Trained:
    """Train, and keep the best epoch as a copy on disk.

    Best is the epoch with the highest validation accuracy; at the same accuracy, the lowest loss.

    Args:
        session: On what.
        config: Resolved settings; ``lr`` is a number.
        begun: What the model does already, if that counts: it is kept where no epoch is better.

    Raises:
        TlserveError: The loss is no longer a number.
        DeviceError: The device lacks the precision that was asked for.
        StorageError: The disk refused.
    """
    model, events = session.model, session.events
    assert isinstance(config.lr, float)  # noqa: S101 - resolved, and found where it was to be found
    plan = make_plan(config, session.blocks, config.lr)
    stepper = Stepper(session, config, plan)
    schedule = Schedule(config, len(session.train))
    mean = averaged(model, config.ema) if config.ema else None
    kept: nn.Module = model if mean is None else mean.module
    checkpoint = session.run / "best.safetensors"
    history: list[Epoch] = []
    best, best_epoch = begun, 0
    if begun is not None:
        save_weights(model, checkpoint)

    stages = {stage.first: stage for stage in plan.stages(config.epochs)}
    for number in range(1, config.epochs + 1):
        started = time.monotonic()
        rate = config.lr * schedule.factor
        stepper.begin_epoch(number)
        if number in stages:
            feed = make_feed(session, config, stages[number], kept)
            network = compiled(feed.network) if config.compile else feed.network
        batches = feed.train(number, 0)
        events.begin(f"epoch {number}/{config.epochs}", session.views.count)
        # Summed on the device: reading the loss at each step would wait for it.
        total = torch.zeros((), device=session.device)
        for inputs, labels in batches:
            loss = stepper.step(network, inputs, labels, schedule.factor)
            total += loss * len(labels)
            schedule.after_step()
            if mean is not None:
                mean.update_parameters(model)
            events.advance(len(labels))
        train_loss = float(total) / session.views.count
        events.begin("validation", len(session.val_samples))
        result = evaluate(feed.kept, feed.val, session.device, events)
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
            lr=rate,
            seconds=round(time.monotonic() - started, 3),
        )
        history.append(epoch)
        is_best = result.better_than(best)
        if is_best:
            best, best_epoch = result, number
            save_weights(kept, checkpoint)
        _write_history(session.run / "history.csv", history)
        events.epoch(epoch, config.epochs, best=is_best)
        if config.patience and config.patience <= number - best_epoch and number < config.epochs:
            events.message(f"No better epoch in {config.patience}: stopped early.")
            break
        schedule.after_epoch(result.loss)

    assert best is not None  # noqa: S101 - there is at least one epoch
    trainable = count_parameters(model)[1]
    return Trained(
        checkpoint, best_epoch, best, tuple(history), trainable, state_bytes(stepper.optimizer)
    )


def save_weights(model: nn.Module, path: Path) -> None:
    """Write a model's state dict as safetensors: a copy, whole or not at all."""
    state = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    with replacing(path) as temporary:
        # Written by Python rather than by safetensors, whose errors hide what the disk said.
        temporary.write_bytes(save(state))


def _write_history(path: Path, history: list[Epoch]) -> None:
    with replacing(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(Epoch.model_fields))
        writer.writeheader()
        writer.writerows(epoch.model_dump() for epoch in history)
