"""Signals in the processes that load images: the main process decides what they mean."""

from __future__ import annotations

import atexit
import functools
import multiprocessing
import os
import signal
from collections.abc import Callable
from ctypes import c_byte
from types import FrameType


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
