"""Which requests are BentoML's to answer: its probes, and the files of the documentation's page.

Everything else goes to the application of this package before BentoML looks for a route of its own:
no API method of BentoML can be reached, and a request is routed once.
"""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from service.faces.predict import predict

_PROBES = frozenset({"/livez", "/readyz", "/healthz"})
_FILES = "/static_content/"
_METHODS = ("GET", "HEAD")


class Front:
    """ASGI middleware for the BentoML service.

    Args:
        app: BentoML's application.
        ours: Ours.
    """

    def __init__(self, app: ASGIApp, ours: Starlette) -> None:
        self._theirs = app
        self._ours = ours

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request to whom it belongs; see the ASGI specification."""
        if scope["type"] != "http" or _is_theirs(scope):
            await self._theirs(scope, receive, send)
        elif scope["path"] == "/predict" and scope["method"] == "POST":
            # What nearly all requests are is spared Starlette's layers and its search for a route:
            # a tenth of a millisecond in which no other thread can run.
            scope["app"] = self._ours
            response = await predict(Request(scope, receive, send))
            await response(scope, receive, send)
        else:
            await self._ours(scope, receive, send)


def _is_theirs(scope: Scope) -> bool:
    path = scope["path"]
    return scope["method"] in _METHODS and (path in _PROBES or path.startswith(_FILES))
