"""The first to see a request: it stands around all that reads bodies, BentoML's routes included."""

from __future__ import annotations

import math
import os

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.faces import problems
from service.faces.problems import Problem
from service.guard import refusals
from service.guard.callers import Callers, address_of, key_in
from service.guard.headers import secured
from service.guard.rates import Buckets, Taken
from service.scope import CLIENT, DRAINING
from service.settings import Settings

PROBES = frozenset({"/livez", "/readyz", "/v2/health/live", "/v2/health/ready"})
"""Open to everybody: what asks them has no key, and often no name for this host."""

_READINESS = frozenset({"/readyz", "/v2/health/ready"})


class Guard:
    """Admits requests, and gives every answer its security headers.

    Args:
        app: What is guarded.
        settings: From the environment, unless given.
        callers: Names clients, as these settings say; made here unless given.
    """

    def __init__(
        self, app: ASGIApp, settings: Settings | None = None, callers: Callers | None = None
    ) -> None:
        settings = settings or Settings.from_environment(os.environ)
        self._app = app
        self._entry: ASGIApp = _Admission(app, settings, callers or Callers(settings))
        if settings.cors_origins:
            # Around the admission: a preflight request brings no key, and pages may read refusals.
            self._entry = CORSMiddleware(
                self._entry,
                allow_origins=settings.cors_origins,
                allow_methods=("GET", "POST"),
                allow_headers=("Authorization", "Content-Type", "X-API-Key", "X-Request-ID"),
                expose_headers=("Retry-After", "Server-Timing", "X-Request-ID"),
            )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer or pass on; see the ASGI specification."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            # No route speaks it; refused here, none can be reached around the admission.
            await send({"type": "websocket.close", "code": 1008})
        else:
            path = scope["path"]

            async def secure(message: Message) -> None:
                if message["type"] == "http.response.start":
                    message["headers"] = secured(message.get("headers", ()), path)
                await send(message)

            await self._entry(scope, receive, secure)


class _Admission:
    """Lets a request through, or answers it with a problem document."""

    def __init__(self, app: ASGIApp, settings: Settings, callers: Callers) -> None:
        self._app = app
        self._hosts = settings.allowed_hosts
        self._callers = callers
        self._buckets: Buckets | None = None
        if settings.rate:
            self._buckets = Buckets(settings.rate, settings.burst_or_default)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            taken = self._admit(scope)
        except Problem as problem:
            refusals.count(problem)
            await problem.response(scope["path"])(scope, receive, send)
            return
        if taken is None or self._buckets is None:
            await self._app(scope, receive, send)
            return
        standing = self._buckets.headers(taken)

        async def tell(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *standing]
            await send(message)

        await self._app(scope, receive, tell)

    def _admit(self, scope: Scope) -> Taken | None:
        """Check a request by its headers alone.

        Raises:
            Problem: It is not admitted.
        """
        path = scope["path"]
        if path in PROBES and scope["method"] in ("GET", "HEAD"):
            if path in _READINESS and scope.get("state", {}).get(DRAINING):
                raise problems.busy("The service is about to end.", 1)
            return None
        host = content_type = b""
        for name, value in scope["headers"]:
            if name == b"host":
                host = value
            elif name == b"content-type":
                content_type = value
        if self._hosts:
            self._check_host(host)
        client = address_of(scope["client"][0] if scope.get("client") else None)
        key = key_in(scope["headers"]) if self._callers.need_keys else b""
        owner = self._callers.name_of(key)
        taken = None
        if self._buckets is not None:
            # An address and a key of the same text are two clients.
            taken = self._take(f"address {client}" if owner is None else f"key {owner}")
        if self._callers.need_keys and owner is None:
            raise _unauthorized(wrong=bool(key))
        if b"pickle" in content_type.lower():
            raise Problem(
                problems.UNSUPPORTED_TYPE,
                "Pickled objects are not accepted: reading one runs whatever code is in it.",
                hint="Send the image file itself.",
            )
        scope[CLIENT] = owner or client
        return taken

    def _check_host(self, header: bytes) -> None:
        name = header.decode("latin-1").lower()
        host = name.partition("]")[0] + "]" if name.startswith("[") else name.partition(":")[0]
        for allowed in self._hosts:
            if host == allowed.lower() or (
                allowed.startswith("*.") and host.endswith(allowed[1:].lower())
            ):
                return
        raise Problem(
            problems.UNKNOWN_HOST,
            f"The Host header is {name[:80]!r}, which is none of the names of this service.",
            hint="Names are added with --allowed-host.",
        )

    def _take(self, client: str) -> Taken:
        assert self._buckets is not None  # noqa: S101
        taken = self._buckets.take(client)
        if taken.wait:
            wait = math.ceil(taken.wait)
            standing = self._buckets.headers(taken)
            raise Problem(
                problems.TOO_MANY_REQUESTS,
                f"A client may send {self._buckets.rate:g} requests a second, "
                f"and {self._buckets.burst} at once.",
                hint=f"Try again in {wait} s.",
                headers={
                    "Retry-After": str(wait),
                    **{name.decode(): value.decode() for name, value in standing},
                },
            )
        return taken


def _unauthorized(*, wrong: bool) -> Problem:
    challenge = 'Bearer realm="tlserve"'
    return Problem(
        problems.UNAUTHORIZED,
        "The API key is not one that is known here." if wrong else "There is no API key.",
        hint="Send it as 'Authorization: Bearer KEY' or as 'X-API-Key: KEY'.",
        headers={"WWW-Authenticate": challenge + (', error="invalid_token"' if wrong else "")},
    )
