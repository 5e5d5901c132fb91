"""Putting signals off for code that breaks when it is interrupted."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def put_off() -> Iterator[None]:
    """Let SIGINT and SIGTERM come at the end of the block."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before: dict[signal.Signals, Any] = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, lambda signum, _frame: came.append(signum))
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    for signum in came[:1]:
        signal.raise_signal(signum)
