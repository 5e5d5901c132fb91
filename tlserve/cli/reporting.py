"""Showing a training run: a bar an epoch on a terminal, a line an epoch everywhere."""

from __future__ import annotations

from collections.abc import Sequence

from tlserve.bundle.manifest import Epoch
from tlserve.cli.console import Bar, out
from tlserve.data.check import Problem, list_problems
from tlserve.finetune.events import Events


class Reporter(Events):
    """Shows the events of a run to a person.

    Attributes:
        best_epoch: The best epoch so far; 0 before the first.
    """

    def __init__(self) -> None:
        self.best_epoch = 0
        self._bar = Bar()

    def message(self, text: str) -> None:
        """Print a line."""
        out.print(text, markup=False)

    def problems(self, problems: Sequence[Problem]) -> None:
        """Name the files that were left out, and count them."""
        if problems:
            out.print(f"[yellow]Left out {len(problems)} of the files:[/]")
            out.print(list_problems(problems), markup=False)

    def begin(self, task: str, total: int) -> None:
        """Show a bar."""
        self._bar.begin(task, total)

    def advance(self, images: int = 1) -> None:
        """Move the bar."""
        self._bar.advance(images)

    def end(self) -> None:
        """Remove the bar."""
        self._bar.end()

    def epoch(self, epoch: Epoch, epochs: int, *, best: bool) -> None:
        """Print the epoch's line."""
        if best:
            self.best_epoch = epoch.epoch
        mark = "  [green]best[/]" if best else ""
        out.print(
            f"epoch {epoch.epoch:>{len(str(epochs))}}/{epochs}  loss {epoch.train_loss:.4f}  "
            f"val loss {epoch.val_loss:.4f}  val accuracy {epoch.val_accuracy:6.1%}  "
            f"lr {epoch.lr:.1e}  {epoch.seconds:.1f} s{mark}"
        )
