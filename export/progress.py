"""Who is told how far an export is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from export.choose import Candidate
from export.outcome import Parity
from tlserve.bundle.manifest import Serving
from tlserve.runtime.measure import Measurement


class Progress:
    """Told how far an export is; does nothing by itself."""

    def begin(self, task: str, total: int) -> None:
        """A task of ``total`` steps begins."""

    def advance(self, steps: int = 1) -> None:
        """So many steps are done."""

    def end(self) -> None:
        """The task is over."""

    def message(self, text: str) -> None:
        """Something that a person should know."""

    def parity(self, results: Sequence[Parity]) -> None:
        """The comparisons are done, whatever their outcome."""

    def chosen(
        self,
        found: Sequence[Measurement],
        candidates: Sequence[Candidate],
        refused: Mapping[str, str],
        serving: Serving,
    ) -> None:
        """The measurements are done, and one is chosen."""
