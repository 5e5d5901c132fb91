"""What a comparison found."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Level:
    """The outcome of one level for one file.

    Attributes:
        name: ``description``, ``numbers``, ``batches``, ``threads``, ``decisions`` or ``bytes``.
        passed: Whether it passed; ``None``: it was not judged, and the remark says why.
        compared: How many inputs.
        max_abs_diff: The largest |Δlogit|; NaN is written as the largest float32.
        tolerance: The largest that passes; 0: it is not what decides.
        remark: What a person should know.
        flips: Images whose decision changed, with the margin that the trained model gave them.
        accuracy_drop: ``decisions``: points of accuracy that the file loses.
    """

    name: str
    passed: bool | None
    compared: int = 0
    max_abs_diff: float = 0.0
    tolerance: float = 0.0
    remark: str = ""
    flips: tuple[str, ...] = ()
    accuracy_drop: float = 0.0


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
