"""Where requests are turned away that there is no room for, before anything is made for them.

Who is asked for more than he can do must spend little on saying so, for what it takes is taken from
the answers. On its way through the application a refusal costs several times what it costs here.
"""

from __future__ import annotations

import math
import re
import time
from functools import lru_cache
from typing import TYPE_CHECKING

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from service.faces import problems
from service.guard.callers import Callers, Headers
from service.guard.headers import secured
from service.observe import tracing
from service.observe.faces import face_of
from service.observe.request import Request, chosen_id, current
from service.settings import Settings

if TYPE_CHECKING:
    from service.inference.engine import Engine

_IMAGES = frozenset({b"/predict", b"/predict/batch", b"/classify"})
_INFER = re.compile(rb"/v2/models/[^/]+(/versions/[^/]+)?/infer")
"""The paths of what takes a place in the queue; the second of the Open Inference Protocol."""

_ID = "{request-id}"
"""Stands for the request's id in what is written once for many."""


class Door:
    """Answers for an engine that is full.

    Rates and names of hosts are not looked at: nothing is given to anybody. Behind a proxy it knows
    the proxy only, and leaves to the application whatever that may be given.

    Args:
        engine: Knows whether there is room.
        callers: Knows for whom.
    """

    def __init__(self, engine: Engine, callers: Callers) -> None:
        self._engine = engine
        self._callers = callers

    @classmethod
    def of(cls, settings: Settings, engine: Engine, callers: Callers) -> Door | None:
        """Make one, but where each request must be seen whole: by the log, a trace or a browser."""
        if settings.access_log or settings.cors_origins or tracing.on():
            return None
        return cls(engine, callers)

    def refusal(
        self,
        url: bytes,
        headers: Headers,
        default_headers: Headers,
        *,
        host: str | None,
        keep_alive: bool,
    ) -> bytes | None:
        """Write the whole answer to a POST that there is no room for.

        Args:
            url: As it came.
            headers: The request's.
            default_headers: Of every answer.
            host: The address that it came from.
            keep_alive: Whether the connection goes on afterwards.

        Returns:
            ``None`` if there is room, the request asks for none, or its client is not known.
        """
        raw_path = url.partition(b"?")[0]
        is_v2 = raw_path not in _IMAGES
        if is_v2 and not _INFER.fullmatch(raw_path):
            return None
        started = time.perf_counter()
        places = self._engine.places
        client = None if places.free else self._callers.client_of(headers, host)
        full = None if client is None else places.refusal(client)
        if full is None:
            return None
        given = next((value for name, value in headers if name == b"x-request-id"), None)
        identity = chosen_id(given).encode("ascii")
        path = "/v2" if is_v2 else "/predict"
        head, body = _written(full.rule, math.ceil(full.wait), path)
        body = body.replace(_ID.encode(), identity)
        answer = b"".join(
            (
                head,
                *(b"%b: %b\r\n" % header for header in default_headers),
                b"" if keep_alive else b"connection: close\r\n",
                b"content-length: %d\r\nx-request-id: %b\r\n\r\n" % (len(body), identity),
                body,
            )
        )
        metrics = self._engine.metrics
        metrics.rejected(problems.BUSY.name)
        metrics.request(face_of(raw_path.decode("ascii", "replace")), problems.BUSY.status)
        metrics.answered(time.perf_counter() - started)
        return answer


@lru_cache(maxsize=64)
def _written(rule: str, wait: int, path: str) -> tuple[bytes, bytes]:
    """Write what the same refusals share: the head, but for its last lines, and the body."""
    token = current.set(Request(_ID))
    try:
        response = problems.busy(rule, wait).response(path)
    finally:
        current.reset(token)
    lines = [
        b"%b: %b\r\n" % (name, value)
        for name, value in secured(response.raw_headers, path)
        if name != b"content-length"
    ]
    return b"".join([STATUS_LINE[response.status_code], *lines]), bytes(response.body)
