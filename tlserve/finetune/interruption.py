"""SIGINT and SIGTERM come between two steps, never in one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """Puts off an interruption for as long as something is half-done.

    Outside :meth:`finishing` a signal raises ``KeyboardInterrupt`` at once. Inside, the first is
    put off to the end of the block; the second, from somebody who does not want to wait, is not.

    Attributes:
        in_between: Whether nothing is half-done: false once a block was left by a signal.
        pending: Whether a signal came that was put off.
    """

    def __init__(self, *, in_company: bool = False) -> None:
        """Expect signals.

        Args:
            in_company: Whether there are other processes to agree with on when to stop: then the
                first signal is only noted, in ``pending``.
        """
        self.in_between = True
        self.pending = False
        self._in_company = in_company

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Take over the signals. Elsewhere than in the main thread there are none to take over."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before: dict[signal.Signals, Any] = {}
        try:
            for number in _SIGNALS:
                before[number] = signal.getsignal(number)
                if before[number] is not signal.SIG_IGN:
                    signal.signal(number, self._handle)
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def finishing(self) -> Iterator[None]:
        """Put an interruption off to the end of the block.

        Raises:
            KeyboardInterrupt: At the end, if a signal came.
        """
        self.in_between = False
        yield
        self.in_between = True
        if self.pending and not self._in_company:
            self.pending = False
            raise KeyboardInterrupt

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        # Said again at the end of the next block, too: raised in a destructor, it is lost.
        again, self.pending = self.pending, True
        if again and self._in_company:
            self.in_between = False
        if again or (self.in_between and not self._in_company):
            raise KeyboardInterrupt
