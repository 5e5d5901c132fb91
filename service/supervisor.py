"""The process that stays with the service's workers until they end."""

from __future__ import annotations

import http.client
import logging
import math
import os
import select
import signal
import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from service.address import reachable
from service.channel import FOLDER, NUMBER
from service.guard.settings import DRAIN_SECONDS
from service.process import WorkerProcess, ending
from service.settings import Settings
from service.shares import Share
from tlserve.errors import ServiceError

logger = logging.getLogger(__name__)

_KILL_SECONDS = 10
"""How long the workers may take after draining before they are killed."""

_LOOK_SECONDS = 1.0


class Supervisor:
    """Worker processes, replaced if they die, ended when this process is asked to end.

    Args:
        settings: What they serve, and how.
        listeners: A socket for each.
        shares: What each gets of the machine.
        folder: For what they write.
        secure: Whether they speak TLS.
    """

    def __init__(
        self,
        settings: Settings,
        listeners: Sequence[socket.socket],
        shares: Sequence[Share],
        folder: Path,
        *,
        secure: bool,
    ) -> None:
        self._listeners = listeners
        self._secure = secure
        self.port = listeners[0].getsockname()[1]
        environment = _environment(settings, folder)
        several = len(listeners) > 1
        self._workers = [
            WorkerProcess(
                listener,
                {**environment, NUMBER: str(number), FOLDER: str(folder)}
                if several
                else environment,
                share,
            )
            for number, (listener, share) in enumerate(zip(listeners, shares, strict=True))
        ]
        self._stopping = False
        self._deadline = math.inf

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Answer SIGINT and SIGTERM by ending the workers; leave no worker behind."""
        before = {s: signal.signal(s, self._stop) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for worker in self._workers:
                worker.end()
            for number, handler in before.items():
                signal.signal(number, handler)

    def start(self) -> str | None:
        """Start the workers and wait until they have loaded the model.

        Returns:
            The device that they run on; ``None`` if this process was asked to end meanwhile.
        """
        return self._start(self._workers)

    def _start(self, workers: Sequence[WorkerProcess]) -> str | None:
        for worker in workers:
            try:
                worker.start()
            except (OSError, ValueError):
                # The signal handler has closed the listeners just now.
                if self._stopping:
                    return None
                raise
        if self._stopping:
            for worker in workers:
                worker.send(signal.SIGTERM)
        device = None
        for worker in workers:
            device = worker.hear()
            if device is None and not self._stopping:
                raise worker.ended_early()
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
        """Wait for the workers' end; replace those whose end was not asked for."""
        while running := [worker for worker in self._workers if worker.runs or not self._stopping]:
            for worker in self._ended(running):
                status = worker.wait()
                if not self._stopping:
                    logger.error("The service %s; starting it again.", ending(status))
                    self._start([worker])

    def _ended(self, workers: Sequence[WorkerProcess]) -> list[WorkerProcess]:
        """Wait a while for the end of some worker."""
        lines = {worker.line: worker for worker in workers}
        readable, _, _ = select.select(list(lines), [], [], _LOOK_SECONDS)
        if time.monotonic() > self._deadline:
            for worker in workers:
                worker.send(signal.SIGKILL)
        return [lines[line] for line in readable if not line.recv(4096)]

    def _connection(self, host: str) -> http.client.HTTPConnection:
        if not self._secure:
            return http.client.HTTPConnection(host, self.port, timeout=30)
        # It is our own worker that is asked, by an address that its certificate need not have.
        trusting = ssl._create_unverified_context()  # noqa: S323
        return http.client.HTTPSConnection(host, self.port, timeout=30, context=trusting)

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        again, self._stopping = self._stopping, True
        if not again:
            self._deadline = time.monotonic() + DRAIN_SECONDS + _KILL_SECONDS
        for listener in self._listeners:
            # New clients are refused from now on rather than left waiting.
            listener.close()
        for worker in self._workers:
            # uvicorn takes a second SIGINT as: at once.
            worker.send(signal.SIGINT if again else signal.SIGTERM)


def _environment(settings: Settings, folder: Path) -> dict[str, str]:
    """Describe the workers' environment; ``folder`` is for what they write."""
    # They run in another folder.
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
