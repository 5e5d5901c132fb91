"""The process that stays with the service's worker until it ends."""

from __future__ import annotations

import http.client
import logging
import math
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from service import channel
from service.address import reachable
from service.guard.settings import DRAIN_SECONDS
from service.settings import Settings
from tlserve.errors import ServiceError

logger = logging.getLogger(__name__)

_STDERR = 2
_KILL_SECONDS = 10
"""How long the worker may take after draining before it is killed."""


class Supervisor:
    """One worker process, replaced if it dies, ended when this process is asked to end."""

    def __init__(
        self, settings: Settings, listener: socket.socket, folder: Path, *, secure: bool
    ) -> None:
        self._listener = listener
        self._secure = secure
        self.port = listener.getsockname()[1]
        self._environment = _environment(settings, folder)
        self._worker: subprocess.Popen[bytes] | None = None
        self._line: socket.socket | None = None
        self._stopping = False
        self._deadline = math.inf

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Answer SIGINT and SIGTERM by ending the worker; leave no worker behind."""
        before = {s: signal.signal(s, self._stop) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            self._end_worker()
            for number, handler in before.items():
                signal.signal(number, handler)

    def start(self) -> str | None:
        """Start a worker and wait until it has loaded the model.

        Returns:
            The device that it runs on; ``None`` if this process was asked to end meanwhile.
        """
        self._line, theirs = socket.socketpair()
        with theirs:
            try:
                self._worker = self._spawn(theirs)
            except (OSError, ValueError):
                # The signal handler has closed the listener just now.
                if self._stopping:
                    return None
                raise
        if self._stopping:
            self._worker.terminate()
        device = channel.hear(self._line)
        if device is None and not self._stopping:
            raise ServiceError(
                f"The service {_ending(self._worker.wait())} before it was ready.",
                hint="What it wrote is above.",
            )
        return device

    def answers(self, host: str) -> bool:
        """Ask the service itself, over HTTP, whether it is ready.

        Returns:
            Whether it is; ``False`` only if this process was asked to end meanwhile.
        """
        connection = self._connection(reachable(host))
        try:
            connection.request("GET", "/readyz")
            status = connection.getresponse().status
        except OSError as error:
            if self._stopping:
                return False
            raise ServiceError(
                f"The service does not answer on port {self.port}: {error}."
            ) from error
        finally:
            connection.close()
        if status != http.client.OK and not self._stopping:
            raise ServiceError(f"The service is loaded, but /readyz answers {status}.")
        return not self._stopping

    def stay(self) -> None:
        """Wait for the worker's end; replace it unless its end was asked for."""
        while not self._stopping or self._runs():
            status = self._worker_end()
            if self._stopping:
                return
            logger.error("The service %s; starting it again.", _ending(status))
            self.start()

    def _connection(self, host: str) -> http.client.HTTPConnection:
        if not self._secure:
            return http.client.HTTPConnection(host, self.port, timeout=30)
        # It is our own worker that is asked, by an address that its certificate need not have.
        trusting = ssl._create_unverified_context()  # noqa: S323
        return http.client.HTTPSConnection(host, self.port, timeout=30, context=trusting)

    def _spawn(self, line: socket.socket) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            _command(self._listener),
            # The folder that has this package comes first in the worker's import path: a service.py
            # where the user happens to be is not taken for it.
            cwd=Path(__file__).resolve().parent.parent,
            env=self._environment | {channel.VARIABLE: str(line.fileno())},
            pass_fds=(self._listener.fileno(), line.fileno()),
            stdin=subprocess.DEVNULL,
            stdout=_STDERR,
            # Ctrl-C is for this process to answer, in order.
            start_new_session=True,
        )

    def _runs(self) -> bool:
        return self._worker is not None and self._worker.poll() is None

    def _worker_end(self) -> int:
        assert self._line is not None  # noqa: S101
        assert self._worker is not None  # noqa: S101
        with self._line:
            self._line.settimeout(1)
            while True:
                try:
                    if not self._line.recv(4096):
                        return self._worker.wait()
                except TimeoutError:
                    if time.monotonic() > self._deadline:
                        self._worker.kill()

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        again, self._stopping = self._stopping, True
        if not again:
            self._deadline = time.monotonic() + DRAIN_SECONDS + _KILL_SECONDS
        # New clients are refused from now on rather than left waiting.
        self._listener.close()
        if self._worker is not None:
            # uvicorn takes a second SIGINT as: at once.
            self._worker.send_signal(signal.SIGINT if again else signal.SIGTERM)

    def _end_worker(self) -> None:
        if self._worker is not None and self._runs():
            self._worker.terminate()
            try:
                self._worker.wait(_KILL_SECONDS)
            except subprocess.TimeoutExpired:
                self._worker.kill()
                self._worker.wait()
        if self._line is not None:
            self._line.close()


def _command(listener: socket.socket) -> list[str]:
    return [sys.executable, "-m", "service.worker", "--fd", str(listener.fileno())]


def _environment(settings: Settings, folder: Path) -> dict[str, str]:
    """Describe the worker's environment; ``folder`` is for what it writes."""
    # The worker runs in another folder.
    paths = {
        name: value.resolve()
        for name in type(settings).model_fields
        if isinstance(value := getattr(settings, name), Path)
    }
    settings_variables = settings.model_copy(update=paths).to_environment()
    return {
        # It makes a folder in the home directory, which may be read-only.
        "BENTOML_HOME": str(folder / "bentoml"),
        # Its official builds report what they load to their maker unless they are told not to.
        "ORT_DISABLE_TELEMETRY": "1",
        **os.environ,
        **settings_variables,
        "BENTOML_DO_NOT_TRACK": "True",
        "BENTOML_QUIET": "true",
        "PYTHONUNBUFFERED": "1",
    }


def _ending(status: int) -> str:
    if status < 0:
        return f"was ended by {signal.Signals(-status).name}"
    return f"ended with status {status}"
