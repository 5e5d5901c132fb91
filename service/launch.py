"""Starting the service and staying with it until it ends.

The process that is started is BentoML's own HTTP worker, the one that ``bentoml serve`` starts. Its
supervisor is this module instead of Circus: it holds the listening socket, so that a port in use is
noticed before anything is loaded and a worker that died is replaced without refusing a client; it
learns why a start failed, where Circus would try for ever; and it starts a second sooner.
"""

from __future__ import annotations

import errno
import http.client
import logging
import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from service import channel
from service.settings import Settings
from tlserve.bundle import Bundle
from tlserve.errors import ServiceError, UsageError
from tlserve.runtime.backend import BACKENDS

logger = logging.getLogger(__name__)

_BACKLOG = 2048
_DRAIN_SECONDS = 30
_KILL_SECONDS = 10
"""How long the worker may take after draining before it is killed."""


@dataclass(frozen=True)
class Ready:
    """What runs, once it does."""

    name: str
    version: str
    backend: str
    device: str
    url: str
    seconds: float


def serve(settings: Settings, host: str, port: int, on_ready: Callable[[Ready], None]) -> None:
    """Serve a bundle until SIGINT or SIGTERM; requests that were begun are then finished.

    Must be called from the main thread.

    Args:
        settings: What to serve, and how.
        host: The address to listen on.
        port: The port; 0 for a free one.
        on_ready: Is called once, when requests are answered.

    Raises:
        TlserveError: The service could not start, for the reason that it says.
    """
    started = time.perf_counter()
    bundle = Bundle.read(settings.bundle)
    backend = settings.running(bundle).backend
    kind = BACKENDS[backend].kind
    if not bundle.names(kind):
        bundle.verified(kind)  # raises, with the way to make the file
    with _listen(host, port) as listener, tempfile.TemporaryDirectory(prefix="tlserve-") as folder:
        supervisor = _Supervisor(settings, listener, Path(folder))
        with supervisor.signals():
            device = supervisor.start()
            if device is not None and supervisor.answers(host):
                on_ready(
                    Ready(
                        name=bundle.manifest.name,
                        version=bundle.manifest.version,
                        backend=backend,
                        device=device,
                        url=_url(host, supervisor.port),
                        seconds=time.perf_counter() - started,
                    )
                )
            supervisor.stay()


class _Supervisor:
    """One worker process, replaced if it dies, ended when this process is asked to end."""

    def __init__(self, settings: Settings, listener: socket.socket, folder: Path) -> None:
        self._listener = listener
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
        connection = http.client.HTTPConnection(_reachable(host), self.port, timeout=30)
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

    def _spawn(self, line: socket.socket) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            _command(self._listener),
            # The folder that has this package comes first in the worker's import path: a service.py
            # where the user happens to be is not taken for it.
            cwd=Path(__file__).resolve().parent.parent,
            env=self._environment | {channel.VARIABLE: str(line.fileno())},
            pass_fds=(self._listener.fileno(), line.fileno()),
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,
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
            self._deadline = time.monotonic() + _DRAIN_SECONDS + _KILL_SECONDS
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
    return [
        *(sys.executable, "-m", "_bentoml_impl.worker.service", "service.main:TlserveService"),
        *("--fd", str(listener.fileno())),
        *("--backlog", str(_BACKLOG)),
        *("--worker-id", "1"),
        *("--timeout-graceful-shutdown", str(_DRAIN_SECONDS)),
    ]


def _environment(settings: Settings, folder: Path) -> dict[str, str]:
    """Describe the worker's environment; ``folder`` is for what it writes."""
    settings_variables = settings.to_environment()
    settings_variables["TLSERVE_BUNDLE"] = str(settings.bundle.resolve())
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


def _listen(host: str, port: int) -> socket.socket:
    if not 0 <= port <= 65535:
        raise UsageError(f"The port must be 0 to 65535, not {port}.")
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as error:
        raise UsageError(
            f"Unknown host {host!r}: {error.strerror}.",
            hint="Use 127.0.0.1 for this machine only, 0.0.0.0 for all of its addresses.",
        ) from error
    try:
        return socket.create_server(address[:2], family=family, backlog=_BACKLOG)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ServiceError(
                f"Port {port} is in use on {host}.",
                hint="Stop what listens there, or choose another with --port; 0 finds a free one.",
            ) from error
        raise ServiceError(
            f"Cannot listen on {host}, port {port}: {os.strerror(error.errno or 0)}.",
            hint="Use an address of this machine, and a port from 1024 upwards.",
        ) from error


def _reachable(host: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)  # noqa: S104


def _url(host: str, port: int) -> str:
    address = _reachable(host)
    return f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"


def _ending(status: int) -> str:
    if status < 0:
        return f"was ended by {signal.Signals(-status).name}"
    return f"ended with status {status}"
