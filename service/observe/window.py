"""How busy the two stages of an answer were, lately: sums in slots that are used again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

_SLOT_SECONDS = 5
_SLOTS = 12


@dataclass(slots=True)
class _Slot:
    number: int = -1
    preparing: float = 0.0
    inference: float = 0.0


class Window:
    """Seconds of work in about the last minute; may be told of it by any thread.

    Args:
        clock: Seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = clock()
        self._slots = [_Slot() for _ in range(_SLOTS)]
        self._lock = threading.Lock()

    def add(self, preparing: float = 0.0, inference: float = 0.0) -> None:
        """Note work that has ended now, in seconds."""
        number = int(self._clock() / _SLOT_SECONDS)
        slot = self._slots[number % _SLOTS]
        with self._lock:
            if slot.number != number:
                slot.number, slot.preparing, slot.inference = number, 0.0, 0.0
            slot.preparing += preparing
            slot.inference += inference

    def sums(self) -> tuple[float, float, float]:
        """Give the seconds of preparing, of inference, and of the time that they fell into."""
        now = self._clock()
        oldest = int(now / _SLOT_SECONDS) - _SLOTS + 1
        with self._lock:
            slots = [slot for slot in self._slots if slot.number >= oldest]
            preparing = sum(slot.preparing for slot in slots)
            inference = sum(slot.inference for slot in slots)
        # The newest slot is not over; a process that has just begun has no minute behind it.
        seconds = now - max(oldest * _SLOT_SECONDS, self._began)
        return preparing, inference, max(seconds, 1e-9)
