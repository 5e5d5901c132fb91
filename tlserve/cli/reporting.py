"""Showing a training run: a bar an epoch on a terminal, a line an epoch everywhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, SupportsFloat

from tlserve.bundle.manifest import Epoch
from tlserve.cli.console import Bar, out
from tlserve.cli.run_clock import RunClock
from tlserve.data.check import Problem, list_problems
from tlserve.errors import TlserveError
from tlserve.finetune.events import Events

if TYPE_CHECKING:
    from tlserve.bundle import Bundle

_READ_EVERY = 1.0
"""Seconds between two looks at the loss, each of which waits for the device."""


class Report(Events):
    """Tells nobody what a run does: what ``--quiet`` asks for.

    Attributes:
        best_epoch: The best epoch so far; 0 before the first.
    """

    def __init__(self) -> None:
        self.best_epoch = 0

    def epoch(self, epoch: Epoch, epochs: int, *, best: bool) -> None:
        """Remember which was the best."""
        if best:
            self.best_epoch = epoch.epoch

    def bundle(self, bundle: Bundle) -> None:
        """The bundle is in its place."""

    def failed(self, error: TlserveError) -> None:
        """The run ends with an error, which is printed to standard error by another."""


class ConsoleReport(Report):
    """Shows the events of a run to a person."""

    def __init__(self) -> None:
        super().__init__()
        self._bar = Bar()
        self._run: RunClock | None = None
        self._best_accuracy: float | None = None
        self._seen = 0
        self._read_at = 0.0

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
        self._seen = 0
        self._bar.begin(task, total, per_second=" images/s")
        self._show_run()

    def begin_epoch(self, number: int, epochs: int, images: int) -> None:
        """Show the epoch's bar, and below it the run."""
        pace = None if self._run is None else self._run.pace
        self._run = RunClock(number, epochs, time.monotonic(), pace)
        self._read_at = 0.0
        super().begin_epoch(number, epochs, images)

    def advance(self, images: int = 1) -> None:
        """Move the bar."""
        self._seen += images
        self._bar.advance(images)
        self._show_run()

    def training_loss(self, total: SupportsFloat) -> None:
        """Show the mean loss of the epoch so far, now and then."""
        now = time.monotonic()
        if self._bar.shown and now - self._read_at >= _READ_EVERY:
            self._read_at = now
            self._bar.note(f"loss {float(total) / self._seen:.4f}")

    def end(self) -> None:
        """Remove the bar."""
        self._bar.end()

    def epoch(self, epoch: Epoch, epochs: int, *, best: bool) -> None:
        """Print the epoch's line."""
        super().epoch(epoch, epochs, best=best)
        if best:
            self._best_accuracy = epoch.val_accuracy
        if self._run is not None:
            self._run.pace = epoch.seconds
        mark = "  [green]best[/]" if best else ""
        out.print(
            f"epoch {epoch.epoch:>{len(str(epochs))}}/{epochs}  loss {epoch.train_loss:.4f}  "
            f"val loss {epoch.val_loss:.4f}  val accuracy {epoch.val_accuracy:6.1%}  "
            f"lr {epoch.lr:.1e}  {epoch.seconds:.1f} s{mark}"
        )

    def bundle(self, bundle: Bundle) -> None:
        """Sum up the run, and say what comes next."""
        metrics = bundle.manifest.metrics
        best = f"epoch {metrics.best_epoch}" if metrics.best_epoch else "the linear probe"
        out.print(
            f"Best: {best}, {metrics.val_correct} of {metrics.val_images} "
            f"validation images right ({metrics.val_accuracy:.1%})."
        )
        out.print(f"Bundle: {bundle.path} (version {bundle.manifest.version})")
        out.print(f"Next: tlserve export {bundle.path} --onnx --torchscript")

    def _show_run(self) -> None:
        if self._run is None or not self._bar.shown:
            return
        left = self._run.left(self._bar.seconds_left, time.monotonic())
        shown = "-:--:--" if left is None else str(timedelta(seconds=round(left)))
        best = ""
        if self._best_accuracy is not None:
            best = f", best val accuracy {self._best_accuracy:.1%} in epoch {self.best_epoch}"
        self._bar.below(f"run {shown} left of {self._run.epochs} epochs{best}")


def make_report(*, quiet: bool, as_json: bool) -> Report:
    """Choose whom a run tells what it does."""
    from tlserve.cli.json_events import JsonReport

    if quiet:
        return Report()
    return JsonReport() if as_json else ConsoleReport()
