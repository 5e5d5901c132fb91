"""Starting the service and staying with it until it ends.

The process that is started is ``service.worker``. ``service.supervisor`` stays with it, where
``bentoml serve`` has Circus: the listening socket is held here, so that a port in use is noticed
before anything is loaded and a worker that died is replaced without refusing a client; why a start
failed is learnt, where Circus would try for ever; and it starts a second sooner.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from service.address import is_loopback, listen, url
from service.guard import tls
from service.guard.keys import KeyRing
from service.settings import Settings
from service.shares import shares
from service.supervisor import Supervisor
from tlserve.bundle import Bundle
from tlserve.runtime.backend import BACKENDS

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ready:
    """What runs, once it does."""

    name: str
    version: str
    backend: str
    device: str
    workers: int
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
    _open_standard_streams()
    # Whatever is wrong with them is said before anything is loaded.
    secure = tls.context(settings) is not None
    closed = bool(settings.api_keys or settings.api_keys_file)
    if closed:
        KeyRing(settings.api_keys, settings.api_keys_file)
    bundle = Bundle.read(settings.bundle)
    running = settings.running(bundle)
    kind = BACKENDS[running.backend].kind
    if not bundle.names(kind):
        bundle.verified(kind)  # raises, with the way to make the file
    parts = shares(settings.workers, running.device, os.environ)
    with (
        contextlib.ExitStack() as listening,
        tempfile.TemporaryDirectory(prefix="tlserve-") as folder,
    ):
        listeners = [listening.enter_context(one) for one in listen(host, port, len(parts))]
        if not closed and not is_loopback(listeners[0]):
            logger.warning(
                "Everybody who reaches %s can use the service: it has no API keys. "
                "Make one with `tlserve key NAME`, and give the file to --api-keys.",
                host,
            )
        supervisor = Supervisor(settings, listeners, parts, Path(folder), secure=secure)
        with supervisor.signals():
            device = supervisor.start()
            if device is not None and supervisor.answers(host):
                on_ready(
                    Ready(
                        name=bundle.manifest.name,
                        version=bundle.manifest.version,
                        backend=running.backend,
                        device=device,
                        workers=len(parts),
                        url=url(host, supervisor.port, secure=secure),
                        seconds=time.perf_counter() - started,
                    )
                )
            supervisor.stay()


def _open_standard_streams() -> None:
    """Open those that whoever started us has closed: a socket would get the place of one."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
