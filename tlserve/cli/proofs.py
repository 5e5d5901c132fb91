"""Showing what an export or a verification found: progress, parity, measurements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.markup import escape

from export.outcome import Parity
from export.progress import Progress
from tlserve.cli.console import Bar, out, table

if TYPE_CHECKING:
    from export.choose import Candidate
    from tlserve.bundle.manifest import Serving
    from tlserve.runtime.measure import Measurement

_WORDS = {True: "pass", False: "FAIL", None: "–"}
_MOST_FLIPS = 5


class Shown(Progress):
    """Bars and tables.

    Attributes:
        passed: The formats that passed, once they were compared.
    """

    def __init__(self) -> None:
        self.bar = Bar()
        self.passed: set[str] = set()

    def begin(self, task: str, total: int) -> None:
        """Show a bar."""
        self.bar.begin(task, total)

    def advance(self, steps: int = 1) -> None:
        """Move it."""
        self.bar.advance(steps)

    def end(self) -> None:
        """Remove it."""
        self.bar.end()

    def message(self, text: str) -> None:
        """Print a line."""
        out.print(escape(text))

    def parity(self, results: Sequence[Parity]) -> None:
        """Print the comparisons."""
        self.passed = {result.format for result in results if result.passed}
        print_parity(results)

    def chosen(
        self,
        found: Sequence[Measurement],
        candidates: Sequence[Candidate],
        refused: Mapping[str, str],
        serving: Serving,
    ) -> None:
        """Print the measurements, what was refused, and the choice."""
        by_name = {candidate.backend: candidate for candidate in candidates}
        rows = []
        for m in sorted(found, key=lambda m: -m.images_per_second):
            candidate = by_name[m.backend]
            accuracy = "" if candidate.accuracy is None else f"{candidate.accuracy:.4f}"
            is_it = (m.backend, m.threads, m.batch) == (
                serving.backend,
                serving.threads,
                serving.max_batch,
            )
            rows.append(
                [
                    f"{'▶ ' if is_it else '  '}{m.backend}",
                    *(str(m.threads), str(m.batch), *speed_cells(m)),
                    *(f"{candidate.bytes / 1e6:.1f}", accuracy, str(candidate.flips)),
                ]
            )
        columns = ["backend", "threads", "batch", *SPEED_COLUMNS, "MB", "accuracy", "flips"]
        table(f"Measured on {found[0].device}, fastest first", columns, rows)
        for name, reason in refused.items():
            out.print(escape(f"Refused: {name}: {reason.splitlines()[0]}"))
        out.print(escape(f"Chosen: {serving.reason}"))


SPEED_COLUMNS = ["images/s", "p50 ms", "p99 ms"]


def speed_cells(found: Measurement) -> list[str]:
    """Give the cells of :data:`SPEED_COLUMNS`."""
    return [f"{found.images_per_second:.1f}", f"{found.p50_ms:.1f}", f"{found.p99_ms:.1f}"]


def print_parity(results: Sequence[Parity]) -> None:
    """Print what was compared, and the decisions that changed most."""
    rows = [
        [
            result.format,
            level.name,
            _WORDS[level.passed],
            str(level.compared),
            f"{level.max_abs_diff:.2g}" if level.compared > 1 else "",
            f"{level.tolerance:.2g}" if level.tolerance else "",
            level.remark,
        ]
        for result in results
        for level in result.levels
    ]
    columns = ["file", "level", "result", "inputs", "max |Δlogit|", "allowed", "remark"]
    table("Parity with the trained model", columns, rows)
    for result in results:
        for level in result.levels:
            if level.flips:
                others = len(level.flips) - _MOST_FLIPS
                rest = f" and {others} more" if others > 0 else ""
                shown = ", ".join(level.flips[:_MOST_FLIPS])
                out.print(escape(f"{result.format} names another class for {shown}{rest}"))
