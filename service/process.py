"""One worker process, seen from the supervisor."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from service import channel
from service.shares import Share
from tlserve.errors import ServiceError

_STDERR = 2
_KILL_SECONDS = 10


class WorkerProcess:
    """A worker that can be started again when it has ended.

    Args:
        listener: What it listens on; stays open when it ends, so that nobody is refused meanwhile.
        environment: For its process.
        share: Of the machine.
    """

    def __init__(
        self, listener: socket.socket, environment: Mapping[str, str], share: Share
    ) -> None:
        self._listener = listener
        self._environment = {**environment, **share.environment()}
        self._share = share
        self._process: subprocess.Popen[bytes] | None = None
        self._line: socket.socket | None = None

    def start(self) -> None:
        """Start it; :meth:`hear` waits until it has loaded the model.

        Raises:
            OSError: The listening socket is closed.
        """
        self.close()
        self._line, theirs = socket.socketpair()
        with theirs:
            self._process = self._spawn(theirs)

    def hear(self) -> str | None:
        """Wait for its word: the device that it runs on; ``None`` if it ended without a word.

        Raises:
            TlserveError: What it said that hinders it.
        """
        return None if self._line is None else channel.hear(self._line)

    @property
    def line(self) -> socket.socket:
        """Becomes readable, and then empty, when the worker ends."""
        assert self._line is not None  # noqa: S101 - asked of those that were started
        return self._line

    @property
    def runs(self) -> bool:
        """Whether it has been started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def wait(self) -> int:
        """Wait for its end, and give its status."""
        assert self._process is not None  # noqa: S101 - asked of those that were started
        return self._process.wait()

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, if it was started."""
        if self._process is not None:
            self._process.send_signal(number)

    def end(self) -> None:
        """End it, in order if it does not take too long."""
        if self._process is not None and self.runs:
            self._process.terminate()
            try:
                self._process.wait(_KILL_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self.close()

    def close(self) -> None:
        """Close the line to a worker that has ended."""
        if self._line is not None:
            self._line.close()
            self._line = None

    def ended_early(self) -> ServiceError:
        """Say that it ended before it was ready."""
        return ServiceError(
            f"The service {ending(self.wait())} before it was ready.",
            hint="What it wrote is above.",
        )

    def _spawn(self, line: socket.socket) -> subprocess.Popen[bytes]:
        processors = self._share.processors
        return subprocess.Popen(
            [sys.executable, "-m", "service.worker", "--fd", str(self._listener.fileno())],
            # The folder that has this package comes first in the worker's import path: a service.py
            # where the user happens to be is not taken for it.
            cwd=Path(__file__).resolve().parent.parent,
            env=self._environment | {channel.VARIABLE: str(line.fileno())},
            pass_fds=(self._listener.fileno(), line.fileno()),
            stdin=subprocess.DEVNULL,
            stdout=_STDERR,
            # Ctrl-C is for the supervisor to answer, in order.
            start_new_session=True,
            preexec_fn=partial(os.sched_setaffinity, 0, processors) if processors else None,
        )


def ending(status: int) -> str:
    """Say how a process ended."""
    if status < 0:
        return f"was ended by {signal.Signals(-status).name}"
    return f"ended with status {status}"
