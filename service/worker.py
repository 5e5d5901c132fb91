"""The process that answers: BentoML's application behind a server of our own.

``python -m service.worker --fd N`` serves on an open socket. It is started by ``service.launch``,
with its settings in the environment.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import resource
import socket
import ssl
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import bentoml
import uvicorn
from starlette.types import ASGIApp
from uvicorn.config import STARTUP_FAILURE

from service.guard import tls
from service.guard.callers import Callers
from service.guard.door import Door
from service.guard.limits import Shared
from service.guard.middleware import Guard
from service.guard.protocol import GuardedProtocol
from service.guard.settings import BACKLOG, DRAIN_SECONDS
from service.holdings import Holdings
from service.settings import Settings

_CHECK_SECONDS = 0.25
_HANDSHAKE_SECONDS = 10.0


class Server(uvicorn.Server):
    """uvicorn's server with connections that end.

    Args:
        config: uvicorn's own settings.
        settings: The service's.
        context: For TLS.
        door: Gives the door, once the application has started.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        settings: Settings,
        context: ssl.SSLContext | None,
        door: Callable[[], Door | None],
    ) -> None:
        super().__init__(config)
        self._context = context
        self._shared = Shared(
            connections=Holdings(settings.max_connections),
            head_seconds=settings.header_timeout,
            idle_seconds=settings.keep_alive,
        )
        self._door = door

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application, then take connections."""
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            sys.exit(STARTUP_FAILURE)
        self._shared.door = self._door()
        loop = asyncio.get_running_loop()
        handshake = None if self._context is None else _HANDSHAKE_SECONDS
        self.servers = [
            await loop.create_server(
                self._connection,
                sock=sock,
                ssl=self._context,
                ssl_handshake_timeout=handshake,
                backlog=self.config.backlog,
            )
            for sock in sockets or []
        ]
        self.started = True
        self._check_connections()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Finish what was begun, then end."""
        # One more turn of the loop takes in the connections that wait in the kernel: closing the
        # socket would reset them.
        await asyncio.sleep(0)
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Tell all connections at once that the end is near."""
        self._shared.draining = True
        super().handle_exit(sig, frame)

    def _connection(self) -> GuardedProtocol:
        return GuardedProtocol(self.config, self.server_state, self.lifespan.state, self._shared)

    def _check_connections(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for connection in list(self.server_state.connections):
            if isinstance(connection, GuardedProtocol):
                connection.check(now)
        loop.call_later(_CHECK_SECONDS, self._check_connections)


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fd", type=int, required=True, help="the socket to listen on")
    descriptor = parser.parse_args().fd
    settings = Settings.from_environment(os.environ)
    _allow_many_files()
    _describe()

    from service.main import app, application

    callers = Callers(settings)
    config = uvicorn.Config(
        _outermost(application, callers),
        loop="uvloop",
        http=GuardedProtocol,
        ws="none",
        # With "auto", an application that cannot start is taken for one that need not.
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=BACKLOG,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=list(settings.trusted_proxies),
        timeout_keep_alive=max(1, round(settings.keep_alive)),
        timeout_graceful_shutdown=DRAIN_SECONDS,
    )
    server = Server(
        config,
        settings,
        tls.context(settings),
        lambda: Door.of(settings, app.state.engine, callers),
    )
    server.run([socket.socket(fileno=descriptor)])


def _outermost(application: bentoml.Service[Any], callers: Callers) -> ASGIApp:
    """Put our middlewares around BentoML's: what it does for each request is for its own routes.

    Its spans, its timeout and its context take a tenth of a millisecond, for requests that never
    get to a route of BentoML's.
    """
    ours = list(application.middlewares)
    application.middlewares.clear()
    app: ASGIApp = application.to_asgi()
    for middleware, options in reversed(ours):
        same = {"callers": callers} if middleware is Guard else {}
        app = middleware(app, **options, **same)
    return app


def _describe() -> None:
    """Tell BentoML's logs and traces what this process is, as its own worker does."""
    from bentoml._internal.log import configure_server_logging

    configure_server_logging()  # type: ignore[no-untyped-call]
    # It silences the loggers that there are already.
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("service."):
            logging.getLogger(name).disabled = False
    context = bentoml.server_context
    context.worker_index = 1
    context.service_type = "entry_service"
    context.service_name = context.bento_name = "tlserve"
    context.bento_version = "not available"


def _allow_many_files() -> None:
    """Lift the limit of open files: the usual one is no more than our limit of connections."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


if __name__ == "__main__":
    main()
