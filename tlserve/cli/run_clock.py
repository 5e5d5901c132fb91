"""How long a run will take yet."""

from __future__ import annotations


class RunClock:
    """Estimates the rest of a run from the epoch before: each takes as long as that one.

    In the first epoch each takes as long as this one will, as far as that is known. A run that
    stops early takes less.

    Attributes:
        epochs: How many the run has at most.
        pace: How many seconds an epoch took; ``None`` before the first is over.
    """

    def __init__(self, number: int, epochs: int, began: float, pace: float | None) -> None:
        """Begin an epoch.

        Args:
            number: Which, from 1.
            epochs: Of how many.
            began: When, in seconds.
            pace: How many seconds the epoch before took.
        """
        self.epochs = epochs
        self.pace = pace
        self._number = number
        self._began = began

    def left(self, of_task: float | None, now: float) -> float | None:
        """Give the seconds that are left; ``None``: nothing is known yet.

        Args:
            of_task: The seconds left of what the epoch does now, if they are known.
            now: In seconds.
        """
        elapsed = now - self._began
        pace = self.pace
        if pace is None:
            if of_task is None:
                return None
            pace = elapsed + of_task
        return max(pace - elapsed, of_task or 0.0) + (self.epochs - self._number) * pace
