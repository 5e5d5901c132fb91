"""What a run tells while it goes on; the command line shows it, tests collect it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import SupportsFloat

from tlserve.bundle.manifest import Epoch, Scalar
from tlserve.data.check import Problem


class Events:
    """Does nothing; override what is of interest."""

    def message(self, text: str) -> None:
        """Something a person should know."""

    def problems(self, problems: Sequence[Problem]) -> None:
        """Files that were left out of the data set."""

    def settings(self, settings: Mapping[str, Scalar]) -> None:
        """Training begins with these settings; those left to the strategy are filled in."""

    def begin(self, task: str, total: int) -> None:
        """A task of ``total`` images begins; it ends the one before."""

    def begin_epoch(self, number: int, epochs: int, images: int) -> None:
        """An epoch, from 1, begins to train on so many images: a task like any other."""
        self.begin(f"epoch {number}/{epochs}", images)

    def advance(self, images: int = 1) -> None:
        """So many images of the task are done."""

    def training_loss(self, total: SupportsFloat) -> None:
        """The losses of the epoch's images so far, summed.

        Args:
            total: A scalar on the device, which goes on changing. ``float`` waits for the device:
                not to be called at each step.
        """

    def end(self) -> None:
        """The task is over."""

    def epoch(self, epoch: Epoch, epochs: int, *, best: bool) -> None:
        """An epoch of ``epochs`` is over."""


class Several(Events):
    """Tells several of what happens, one after the other."""

    def __init__(self, *told: Events) -> None:
        self._told = told

    def message(self, text: str) -> None:
        """Pass it on."""
        for events in self._told:
            events.message(text)

    def problems(self, problems: Sequence[Problem]) -> None:
        """Pass it on."""
        for events in self._told:
            events.problems(problems)

    def settings(self, settings: Mapping[str, Scalar]) -> None:
        """Pass it on."""
        for events in self._told:
            events.settings(settings)

    def begin(self, task: str, total: int) -> None:
        """Pass it on."""
        for events in self._told:
            events.begin(task, total)

    def begin_epoch(self, number: int, epochs: int, images: int) -> None:
        """Pass it on."""
        for events in self._told:
            events.begin_epoch(number, epochs, images)

    def advance(self, images: int = 1) -> None:
        """Pass it on."""
        for events in self._told:
            events.advance(images)

    def training_loss(self, total: SupportsFloat) -> None:
        """Pass it on."""
        for events in self._told:
            events.training_loss(total)

    def end(self) -> None:
        """Pass it on."""
        for events in self._told:
            events.end()

    def epoch(self, epoch: Epoch, epochs: int, *, best: bool) -> None:
        """Pass it on."""
        for events in self._told:
            events.epoch(epoch, epochs, best=best)
