"""Time that a run has taken, in all the processes that it took."""

from __future__ import annotations

import time


class Clock:
    """Counts seconds, those of earlier processes included."""

    def __init__(self, before: float = 0.0) -> None:
        self._began = time.monotonic() - before

    @property
    def seconds(self) -> float:
        """How many it is by now."""
        return time.monotonic() - self._began
