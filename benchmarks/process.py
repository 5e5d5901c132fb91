"""Running a command to be measured: its wall time, or the most memory that it held. Linux only."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

_PAUSE = 0.05
"""Seconds at least between two looks at the memory; a peak that is shorter can be missed."""

_SHARE = 0.2
"""Of the time that looking may take: the kernel walks all pages for it."""


@dataclass(frozen=True)
class Held:
    """The most memory that a process and those below it held at once.

    Attributes:
        peak_bytes: All of it; a page that several of them share counts once (PSS).
        private_bytes: The same without pages of files, which the kernel can drop and read again.
    """

    peak_bytes: int
    private_bytes: int


@dataclass(frozen=True)
class Measured:
    """What a command did and took.

    Attributes:
        output: What it printed, errors included.
        seconds: From before it was started until it had ended.
        held: What memory it held, if that was looked at.
    """

    output: str
    seconds: float
    held: Held | None


def measure(command: Sequence[object], folder: Path, *, look: bool = False) -> Measured:
    """Run a command in a folder; exit with what it said if it fails.

    Args:
        command: The program and its arguments.
        folder: Where it runs.
        look: Whether to look at its memory all the time. The kernel walks all pages of a process
            for it, which takes a tenth of a second where there are gigabytes: the seconds are not
            those of a run that is left alone.
    """
    with tempfile.TemporaryFile("w+") as output:
        started = time.monotonic()
        process = subprocess.Popen(
            [str(part) for part in command], cwd=folder, stdout=output, stderr=subprocess.STDOUT
        )
        sampler = _Sampler(process.pid) if look else None
        with sampler or contextlib.nullcontext():
            # Without a timeout: with one, Python looks only 20 times a second.
            code = process.wait()
            seconds = time.monotonic() - started
        output.seek(0)
        said = output.read()
    if code:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{said}")
    return Measured(said, round(seconds, 3), sampler.held if sampler else None)


class _Sampler:
    """A thread that looks at the memory of a process and all below it, as long as it is open."""

    def __init__(self, pid: int) -> None:
        self.held = Held(0, 0)
        self._root = psutil.Process(pid)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> _Sampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        pause = _PAUSE
        while not self._ended.wait(pause):
            started = time.monotonic()
            self._look()
            pause = max(_PAUSE, (time.monotonic() - started) / _SHARE)

    def _look(self) -> None:
        try:
            processes = [self._root, *self._root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return
        totals, privates = zip(*(_memory(process.pid) for process in processes), strict=True)
        self.held = Held(
            peak_bytes=max(self.held.peak_bytes, sum(totals)),
            private_bytes=max(self.held.private_bytes, sum(privates)),
        )


def _memory(pid: int) -> tuple[int, int]:
    """Give the bytes that a process holds, and those of them that are not pages of files."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text("ascii").splitlines()[1:]
    except (FileNotFoundError, ProcessLookupError):
        # It has ended since it was listed.
        return 0, 0
    sizes = {name: int(size.split()[0]) * 1024 for name, size in (x.split(":") for x in lines)}
    total = sizes.get("Pss", 0)
    return total, total - sizes.get("Pss_File", 0)
