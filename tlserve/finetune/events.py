"""What a run tells while it goes on; the command line shows it, tests collect it."""

from __future__ import annotations

from collections.abc import Sequence

from tlserve.bundle.manifest import Epoch
from tlserve.data.check import Problem


class Events:
    """Does nothing; override what is of interest."""

    def message(self, text: str) -> None:
        """Something a person should know."""

    def problems(self, problems: Sequence[Problem]) -> None:
        """Files that were left out of the data set."""

    def begin(self, task: str, total: int) -> None:
        """A task of ``total`` images begins; it ends the one before."""

    def advance(self, images: int = 1) -> None:
        """So many images of the task are done."""

    def end(self) -> None:
        """The task is over."""

    def epoch(self, epoch: Epoch, epochs: int, *, best: bool) -> None:
        """An epoch of ``epochs`` is over."""
