"""Signals while images are loaded: the main process decides what they mean, and when."""

from __future__ import annotations

import atexit
import functools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import c_byte
from types import FrameType
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


def left_to_the_main_process() -> Callable[[int], None]:
    """Give what a worker process calls at its start.

    Ctrl-C and service managers signal a whole group of processes. A worker that ended then would
    take away what the main process still needs to finish its step and to save; torch raises an
    error for it at any place.
    """
    return functools.partial(_ignore_signals, _ended())


@functools.cache
def _ended() -> c_byte:
    """Give a flag that the workers share: whether the main process is at its end."""
    flag: c_byte = multiprocessing.RawValue(c_byte, 0)
    # Hooks run from the last registered on, so the flag is up when multiprocessing ends its
    # children by SIGTERM and waits for them.
    atexit.register(setattr, flag, "value", 1)
    return flag


def _ignore_signals(ended: c_byte, worker: int) -> None:  # noqa: ARG001 - torch passes the number
    def end(_number: int, _frame: FrameType | None) -> None:
        if ended.value:
            os._exit(0)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, end)
