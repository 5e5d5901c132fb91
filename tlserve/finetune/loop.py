"""The training loop, from top to bottom."""

from __future__ import annotations

import math
import time
from dataclasses import asdict

import torch
from torch import Tensor, nn

from tlserve.bundle.manifest import Epoch
from tlserve.errors import TlserveError
from tlserve.finetune.average import averaged
from tlserve.finetune.beginning import Beginning
from tlserve.finetune.checkpoint import save_weights, write_history
from tlserve.finetune.clock import Clock
from tlserve.finetune.compiling import compiled
from tlserve.finetune.evaluate import Evaluation, evaluate
from tlserve.finetune.feed import Feed, make_feed
from tlserve.finetune.interruption import Interruption
from tlserve.finetune.optimizer import state_bytes
from tlserve.finetune.random_state import random_state, restore_random_state
from tlserve.finetune.ranks import naming_lost_ranks
from tlserve.finetune.run_folder import State
from tlserve.finetune.schedule import Schedule
from tlserve.finetune.session import Session
from tlserve.finetune.stepper import Stepper
from tlserve.finetune.strategies import load_moving_state, make_plan, moving_state
from tlserve.finetune.trained import Trained
from tlserve.zoo.architectures import count_parameters


def train(
    session: Session, beginning: Beginning, saved: State | None = None, *, keep_states: bool = True
) -> Trained:
    """Train, and keep the best epoch as a copy on disk.

    Best is the epoch with the highest validation accuracy; at the same accuracy, the lowest loss.

    Args:
        session: On what.
        beginning: How.
        saved: The state to go on from.
        keep_states: Whether to write states that a later process can go on from.

    Raises:
        KeyboardInterrupt: SIGINT or SIGTERM came; the state is saved.
        TlserveError: The loss is no longer a number.
        DeviceError: The device lacks the precision that was asked for.
        StorageError: The disk refused.
    """
    if beginning.begun is not None and saved is None and session.ranks.main:
        save_weights(session.model, session.run.best)
    if beginning.begun is not None and not beginning.trains:
        head = sum(session.model.get_parameter(name).numel() for name in session.head)
        return Trained(session.run.best, 0, beginning.begun, (), head, 0, 0.0)
    training = _Training(session, beginning, keep_states=keep_states)
    if saved is not None:
        training.restore(saved)
    with training.interruption.watching(), naming_lost_ranks(session.ranks):
        try:
            training.run()
        except KeyboardInterrupt:
            if training.interruption.in_between:
                training.save()
            raise
    if training.best_epoch == 0:
        session.events.message("auto: no epoch was better than the probe, which is kept.")
    return training.outcome()


_AGREE_EVERY = 16
"""Steps on GPUs between two questions to the other processes, each of which waits for the GPU."""


class _Training:
    """A training in progress: between two steps, its state is whole."""

    def __init__(self, session: Session, beginning: Beginning, *, keep_states: bool) -> None:
        self._keep_states = keep_states
        self._ranks = session.ranks
        self.interruption = Interruption(in_company=session.ranks.count > 1)
        self._session = session
        self._beginning = beginning
        config = self._config = beginning.config
        assert isinstance(config.lr, float)  # noqa: S101 - resolved, and found where it was to be
        self._lr = config.lr
        self._plan = make_plan(config, session.blocks, config.lr)
        self._stepper = Stepper(session, config, self._plan)
        self._schedule = Schedule(config, len(session.views))
        self._mean = averaged(session.model, config.ema) if config.ema else None
        self._kept: nn.Module = session.model if self._mean is None else self._mean.module
        self._feed: Feed | None = None
        self._network = session.model
        self._opened_for = 0
        self._validation_seconds = 0.0
        self._history: list[Epoch] = []
        self._best, self.best_epoch = beginning.begun, 0
        self._done = False
        self._last_saved = time.monotonic()
        self._clock = Clock()
        session.events.settings(config.record())
        self._begin_epoch(1)

    def run(self) -> None:
        """Train to the end, or to the end of the time."""
        session, config = self._session, self._config
        stages = self._plan.stages(config.epochs)
        while not self._done:
            with self.interruption.finishing():
                self._open(self._number)
            stage = next(s for s in stages if s.first <= self._number <= s.last)
            if self._feed is None or self._number == stage.first:
                self._feed = make_feed(session, config, stage, self._kept)
                network = self._feed.network
                network = compiled(network) if config.compile else network
                self._network = self._ranks.averaging(network)
            self._steps(self._feed)
            session.events.begin("validation", len(session.val_samples))
            started = time.monotonic()
            self._ranks.share_buffers(self._kept)
            feed, ranks = self._feed, self._ranks
            result = evaluate(feed.kept, feed.val, session.device, session.events, ranks)
            self._validation_seconds = time.monotonic() - started
            session.events.end()
            (time_is_up,) = ranks.any([session.time_is_up(ahead=self._validation_seconds)])
            losses = ranks.gather(float(self._total))
            with self.interruption.finishing():
                self._end_epoch(result, sum(losses) / self._images, time_is_up=time_is_up)
            self.save()

    def _open(self, number: int) -> None:
        """Unfreeze what an epoch trains, and what those before it did, in their order."""
        for epoch in range(min(self._opened_for + 1, number), number + 1):
            self._stepper.begin_epoch(epoch)
        self._opened_for = number

    def _begin_epoch(self, number: int) -> None:
        self._number = number
        self._batches = self._images = 0
        # Summed on the device: reading the loss at each step would wait for it.
        self._total = torch.zeros((), device=self._session.device)
        self._rate = self._lr * self._schedule.factor
        self._epoch_clock = Clock()
        self._images_per_second: float | None = None

    def _steps(self, feed: Feed) -> None:
        """Take the epoch's steps that were not taken yet."""
        session = self._session
        batches = feed.train(self._number, self._batches)
        session.events.begin_epoch(self._number, self._config.epochs, session.views.count)
        session.events.advance(self._images)
        began, before = time.monotonic(), self._images
        for size, (inputs, labels) in zip(session.views.sizes(), batches, strict=True):
            with self.interruption.finishing():
                factor = self._schedule.factor
                share = len(labels) * self._ranks.count / size
                loss = self._stepper.step(self._network, inputs, labels, factor, share)
                self._total += loss * len(labels)
                self._schedule.after_step()
                if self._mean is not None:
                    self._mean.update_parameters(session.model)
                self._batches += 1
                self._images += size
            session.events.advance(size)
            session.events.training_loss(self._total)
            if self._agreed_to_end():
                break
        float(self._total)  # waits for the device
        images, seconds = self._images - before, time.monotonic() - began
        self._images_per_second = round(images / seconds, 1) if images else None

    def _agreed_to_end(self) -> bool:
        """Stop, save, or tell that the epoch has to end here: all processes do the same.

        Raises:
            KeyboardInterrupt: A signal came, to this process or another.
        """
        on_gpu = self._session.device.type == "cuda"
        if self._ranks.count > 1 and on_gpu and self._batches % _AGREE_EVERY:
            return False
        interrupted, time_is_up, save_now = self._ranks.any(
            [
                self.interruption.pending,
                self._session.time_is_up(ahead=self._validation_seconds),
                time.monotonic() - self._last_saved > self._config.save_every * 60,
            ]
        )
        if interrupted:
            raise KeyboardInterrupt
        if save_now:
            self.save()
        return time_is_up

    def _end_epoch(self, result: Evaluation, train_loss: float, *, time_is_up: bool) -> None:
        config, events, run = self._config, self._session.events, self._session.run
        number = self._number
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
            lr=self._rate,
            seconds=round(self._epoch_clock.seconds, 3),
            images_per_second=self._images_per_second,
        )
        self._history.append(epoch)
        is_best = result.better_than(self._best)
        if is_best:
            self._best, self.best_epoch = result, number
        if self._ranks.main:
            if is_best:
                save_weights(self._kept, run.best)
            write_history(run.history, self._history)
        events.epoch(epoch, config.epochs, best=is_best)
        self._done = number == config.epochs
        if time_is_up:
            events.message(f"--time-limit {config.time_limit} is over: stopped in epoch {number}.")
            self._done = True
        elif config.patience and config.patience <= number - self.best_epoch and not self._done:
            events.message(f"No better epoch in {config.patience}: stopped early.")
            self._done = True
        self._schedule.after_epoch(result.loss)
        self._begin_epoch(number + 1)

    def outcome(self) -> Trained:
        """Give the best epoch and the history of a training that is over."""
        assert self._best is not None  # noqa: S101 - there is at least one epoch
        return Trained(
            self._session.run.best,
            self.best_epoch,
            self._best,
            tuple(self._history),
            count_parameters(self._session.model)[1],
            state_bytes(self._stepper.optimizer),
            self._clock.seconds,
        )

    def save(self) -> None:
        """Write the state, whole or not at all."""
        if not self._keep_states:
            return
        # Each process has random numbers and a part of the losses of its own.
        drawn = self._ranks.gather(random_state())
        losses = self._ranks.gather(self._total.cpu())
        with self.interruption.finishing():
            if self._ranks.main:
                position = f"{self._number:07d}-{self._batches:09d}"
                self._session.run.save(position, self._state(drawn, losses))
            self._last_saved = time.monotonic()

    def _state(self, drawn: list[State], losses: list[Tensor]) -> State:
        beginning, blocks, opened = self._beginning, self._plan.blocks, self._stepper.opened
        return {
            "config": beginning.config.record(),
            "selection": beginning.selection and beginning.selection.model_dump(),
            "begun": beginning.begun and asdict(beginning.begun),
            "position": [self._number, self._batches, self._images],
            "done": self._done,
            "opened_for": self._opened_for,
            "losses": losses,
            "rate": self._rate,
            "seconds": [self._clock.seconds, self._epoch_clock.seconds],
            "history": [epoch.model_dump() for epoch in self._history],
            "best": self._best and asdict(self._best),
            "best_epoch": self.best_epoch,
            # What is frozen is as it began, and that the settings say.
            "model": moving_state(self._session.model, blocks, opened),
            "average": self._mean and moving_state(self._mean.module, blocks, opened),
            "averaged": self._mean and self._mean.n_averaged,
            "optimizer": self._stepper.optimizer.state_dict(),
            "scaler": self._stepper.scaler.state_dict(),
            "schedule": self._schedule.state_dict(),
            "random": drawn,
        }

    def restore(self, state: State) -> None:
        """Go on from a state that was saved."""
        model, stepper, run = self._session.model, self._stepper, self._session.run
        self._open(state["opened_for"])
        load_moving_state(model, state["model"])
        if self._mean is not None:
            load_moving_state(self._mean.module, state["average"])
            self._mean.n_averaged.copy_(state["averaged"])
        stepper.optimizer.load_state_dict(state["optimizer"])
        stepper.scaler.load_state_dict(state["scaler"])
        self._schedule.load_state_dict(state["schedule"])
        self._number, self._batches, self._images = state["position"]
        self._done = state["done"]
        losses, drawn = state["losses"], state["random"]
        if len(losses) != self._ranks.count:
            # The rest of the epoch is drawn anew by the processes that there are now.
            rest = [torch.zeros(())] * (self._ranks.count - 1)
            losses, drawn = [torch.stack(losses).sum(), *rest], None
        self._total = losses[self._ranks.rank].to(self._session.device)
        self._rate = state["rate"]
        seconds, epoch_seconds = state["seconds"]
        self._clock, self._epoch_clock = Clock(seconds), Clock(epoch_seconds)
        self._history = [Epoch(**epoch) for epoch in state["history"]]
        self._best = Evaluation(**state["best"]) if state["best"] else None
        self.best_epoch = state["best_epoch"]
        if self._ranks.main:
            write_history(run.history, self._history)
        if drawn is not None:
            restore_random_state(drawn[self._ranks.rank])
