"""What a person looks at: errors, tables, progress. Colour on a terminal, plain text in a pipe."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console, RenderableType
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
from rich.text import Text

from tlserve.errors import TlserveError

_PIPE_WIDTH = 160
"""Columns of a table in a pipe, where there is no terminal to ask."""

_BAR, _SHORT_BAR = 40, 8
"""Columns of a progress bar at most, and at least."""

_BESIDE_THE_BAR = 66
"""Columns of what stands beside a bar: the task, the counts, the rate, the time, a note."""

_WHOLE_NUMBERS = 10
"""From so many steps a second on, fractions say nothing."""

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)
for console in (out, err):
    if not console.is_terminal:
        console.width = _PIPE_WIDTH


def print_error(error: TlserveError) -> None:
    """Print an error and its hint to standard error."""
    err.print(f"[bold red]error:[/] {escape(error.message)}")
    if error.hint:
        err.print(f"[cyan]hint:[/] {escape(error.hint)}")


def table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    console: Console = out,
) -> None:
    """Print a table, to standard output unless another console is given; cells are plain text."""
    grid = Table(title=title or None, title_justify="left", title_style="bold")
    *others, last = columns
    for column in others:
        grid.add_column(column, no_wrap=True)
    grid.add_column(last, overflow="fold")
    for row in rows:
        grid.add_row(*(escape(cell) for cell in row))
    # Soft wrapping, right for sentences, would break the table's lines.
    console.print(grid, soft_wrap=False, crop=False)


class _Rows(Progress):
    """A bar, and a row of text below it where there is one."""

    below = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        """Give the rows."""
        yield from super().get_renderables()
        if self.below:
            yield Text(self.below, no_wrap=True, overflow="ellipsis")


class Bar:
    """One progress bar at a time, on a terminal; nothing in a pipe."""

    def __init__(self) -> None:
        self._progress: _Rows | None = None
        self._task = TaskID(0)
        self._per_second = "/s"

    @property
    def shown(self) -> bool:
        """Whether there is a bar that somebody can see."""
        return self._progress is not None

    @property
    def seconds_left(self) -> float | None:
        """How long the task will take yet; ``None`` where that cannot be told."""
        return None if self._progress is None else self._progress.tasks[0].time_remaining

    def begin(self, task: str, total: int, per_second: str = "/s") -> None:
        """Show a bar; the one before it ends.

        Args:
            task: What is done.
            total: The steps of it.
            per_second: What is written after the number of steps a second.
        """
        self.end()
        if not err.is_terminal:
            return
        self._per_second = per_second
        self._progress = _Rows(
            TextColumn("{task.description}"),
            BarColumn(bar_width=min(_BAR, max(_SHORT_BAR, err.width - _BESIDE_THE_BAR))),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=err,
            transient=True,
        )
        self._task = self._progress.add_task(task, total=total, rate="", note="")
        self._progress.start()

    def advance(self, steps: int = 1) -> None:
        """Move the bar."""
        if self._progress is None:
            return
        self._progress.advance(self._task, steps)
        speed = self._progress.tasks[0].speed
        if speed:
            digits = 0 if speed >= _WHOLE_NUMBERS else 1
            self._progress.update(self._task, rate=f"{speed:.{digits}f}{self._per_second}")

    def note(self, text: str) -> None:
        """Write something at the end of the bar's row, in place of what is there."""
        if self._progress is not None:
            self._progress.update(self._task, note=text)

    def below(self, text: str) -> None:
        """Write a row below the bar, in place of what is there."""
        if self._progress is not None:
            self._progress.below = text

    def end(self) -> None:
        """Remove the bar."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
