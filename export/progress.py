"""Who is told how far an export is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from export.choose import Candidate
from export.parity import Level
from tlserve.bundle.manifest import Serving
from tlserve.runtime.measure import Measurement


@dataclass(frozen=True)
class Parity:
    """The outcome for one exported file.

    Attributes:
        format: What was exported; the name of the backend that runs it.
        file: The file's name inside the bundle.
        sha256: Its hash; empty where it could not be written.
        levels: What was compared.
        companions: The hashes of the files that are read along with it, by name.
    """

    format: str
    file: str
    sha256: str
    levels: tuple[Level, ...]
    companions: dict[str, str]

    @property
    def passed(self) -> bool:
        """Whether no level failed."""
        return all(level.passed is not False for level in self.levels)

    @property
    def failure(self) -> str:
        """What failed, a line a level."""
        return "\n".join(
            f"{self.file} fails the parity check at the level {level.name}: "
            f"max |Δlogit| {level.max_abs_diff:.3g}, allowed {level.tolerance:.3g}"
            f"{'; ' + level.remark if level.remark else ''}."
            if level.tolerance
            else f"{self.file} fails the parity check at the level {level.name}: {level.remark}."
            for level in self.levels
            if level.passed is False
        )

    def level(self, name: str) -> Level:
        """Give the outcome of a level."""
        return next(level for level in self.levels if level.name == name)


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
