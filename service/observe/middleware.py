"""Around every request: its id, what is counted of it, its access log line and its trace."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.observe import tracing
from service.observe.faces import LONGEST_PATH, UNTRACED, face_of
from service.observe.logs import ACCESS
from service.observe.metrics import Metrics
from service.observe.request import Request, chosen_id, current
from service.observe.server_timing import server_timing
from service.scope import CLIENT, CLIENT_CLOSED, header_of


class Observed:
    """The outermost of our ASGI middlewares: what the others answer is observed as well.

    Args:
        app: What answers.
        metrics: Gives the metrics once there are some.
    """

    def __init__(self, app: ASGIApp, metrics: Callable[[], Metrics | None]) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer; see the ASGI specification."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(chosen_id(header_of(scope, b"x-request-id")))
        answer = _Answer(request, send)
        face = face_of(scope["path"])
        token = current.set(request)
        try:
            if tracing.on() and face not in UNTRACED:
                with tracing.span(scope, face, request) as span:
                    await self._app(scope, receive, answer)
                    tracing.finish(span, request, answer.status)
            else:
                await self._app(scope, receive, answer)
        except asyncio.CancelledError:
            answer.status = CLIENT_CLOSED
            raise
        finally:
            metrics = self._metrics()
            if metrics is not None:
                metrics.request(face, answer.status)
            if ACCESS.isEnabledFor(logging.INFO):
                _log(scope, request, answer)
            current.reset(token)


class _Answer:
    """Passes an answer on, with the headers that every answer has."""

    def __init__(self, request: Request, send: Send) -> None:
        self._request = request
        self._send = send
        self.status = 500  # as long as nothing was answered
        self.bytes = 0

    async def __call__(self, message: Message) -> None:
        """Send one message of the answer."""
        if message["type"] == "http.response.start":
            request = self._request
            self.status = message["status"]
            headers = [*message.get("headers", ()), (b"x-request-id", request.id.encode("ascii"))]
            if request.timing is not None:
                total = time.perf_counter() - request.started
                value = server_timing(request.timing, total).encode("ascii")
                headers.append((b"server-timing", value))
            message = {**message, "headers": headers}
        elif message["type"] == "http.response.body":
            self.bytes += len(message.get("body", b""))
        await self._send(message)


def _log(scope: Scope, request: Request, answer: _Answer) -> None:
    # As the client wrote it, percent signs and all: no line breaks can be in it.
    path = scope.get("raw_path", b"")[:LONGEST_PATH].decode("ascii", "backslashreplace")
    seconds = time.perf_counter() - request.started
    fields = {
        "method": scope["method"],
        "path": path,
        "status": answer.status,
        "seconds": round(seconds, 6),
        "bytes": answer.bytes,
    }
    if client := scope.get(CLIENT):
        fields["client"] = client
    ACCESS.info(
        "%s %s %d in %.4f s, %d bytes%s",
        scope["method"],
        path,
        answer.status,
        seconds,
        answer.bytes,
        f", client {client}" if client else "",
        extra={"fields": fields},
    )
