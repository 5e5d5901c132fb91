"""What a person looks at: errors, tables, progress. Colour on a terminal, plain text in a pipe."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from tlserve.errors import TlserveError

_PIPE_WIDTH = 160
"""Columns of a table in a pipe, where there is no terminal to ask."""

out = Console(highlight=False, soft_wrap=True)
if not out.is_terminal:
    out.width = _PIPE_WIDTH
err = Console(stderr=True, highlight=False, soft_wrap=True)


def print_error(error: TlserveError) -> None:
    """Print an error and its hint to standard error."""
    err.print(f"[bold red]error:[/] {escape(error.message)}")
    if error.hint:
        err.print(f"[cyan]hint:[/] {escape(error.hint)}")


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table to standard output; cells are plain text."""
    grid = Table(title=title or None, title_justify="left", title_style="bold")
    *others, last = columns
    for column in others:
        grid.add_column(column, no_wrap=True)
    grid.add_column(last, overflow="fold")
    for row in rows:
        grid.add_row(*(escape(cell) for cell in row))
    # Soft wrapping, right for sentences, would break the table's lines.
    out.print(grid, soft_wrap=False, crop=False)


class Bar:
    """One progress bar at a time, on a terminal; nothing in a pipe."""

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._task = TaskID(0)

    def begin(self, task: str, total: int) -> None:
        """Show a bar; the one before it ends."""
        self.end()
        if not err.is_terminal:
            return
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=err,
            transient=True,
        )
        self._task = self._progress.add_task(task, total=total, rate="")
        self._progress.start()

    def advance(self, steps: int = 1) -> None:
        """Move the bar."""
        if self._progress is None:
            return
        self._progress.advance(self._task, steps)
        speed = self._progress.tasks[0].speed
        if speed:
            self._progress.update(self._task, rate=f"{speed:.0f}/s")

    def end(self) -> None:
        """Remove the bar."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
