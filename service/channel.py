"""The line between the service's process and the one that started it: a socket pair.

The worker says over it that it is ready, or why it cannot be. Each side learns from its end that
the other one is gone, however it went.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
from collections.abc import Mapping

from tlserve import errors
from tlserve.errors import ServiceError, TlserveError

VARIABLE = "TLSERVE_CHANNEL_FD"
"""Names the worker's end in its environment."""
NUMBER = "TLSERVE_WORKER"
"""Says there which worker it is, where there are several."""
FOLDER = "TLSERVE_WORKERS_FOLDER"
"""And which folder they share."""

_LONGEST_MESSAGE = 1 << 20


def worker_end(environment: Mapping[str, str]) -> socket.socket | None:
    """Open the worker's end; ``None`` where nobody supervises, as under ``bentoml serve``."""
    descriptor = environment.get(VARIABLE)
    if descriptor is None:
        return None
    end = socket.socket(fileno=int(descriptor))
    end.set_inheritable(False)
    return end


def end_with(supervisor: socket.socket) -> None:
    """Shut this process down, as SIGTERM does, when the supervisor is gone."""

    def watch() -> None:
        while supervisor.recv(1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="tlserve-supervisor", daemon=True).start()


def say_ready(end: socket.socket, device: str) -> None:
    """Tell the supervisor that the service is loaded, and on what it runs."""
    _say(end, {"device": device})


def say_failed(end: socket.socket, error: TlserveError) -> None:
    """Tell the supervisor why the service cannot start."""
    _say(end, {"error": type(error).__name__, "message": error.message, "hint": error.hint})


def hear(end: socket.socket) -> str | None:
    """Wait for the worker's word.

    Returns:
        The device that it runs on; ``None`` if it ended without a word.

    Raises:
        TlserveError: What the worker said that hinders it, of the type that it raised.
    """
    text = b""
    while not text.endswith(b"\n") and len(text) < _LONGEST_MESSAGE:
        chunk = end.recv(65536)
        if not chunk:
            return None
        text += chunk
    message = json.loads(text)
    if "error" in message:
        kind = getattr(errors, message["error"], ServiceError)
        raise kind(message["message"], hint=message["hint"])
    return str(message["device"])


def _say(end: socket.socket, message: dict[str, str]) -> None:
    # Without a supervisor this process is about to end: see `end_with`.
    with contextlib.suppress(BrokenPipeError):
        end.sendall(json.dumps(message).encode() + b"\n")
