"""The HTTP faces of the one queue: a Starlette application in front of BentoML's routes."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, compile_path
from starlette.types import Receive, Scope, Send

from service.faces import problems, v2
from service.faces.answering import refused
from service.faces.batch import predict_batch
from service.faces.card import card
from service.faces.classify import classify, schema
from service.faces.openapi import PATHS
from service.faces.pages import metrics, openapi, page
from service.faces.predict import predict
from service.faces.problems import Problem

_DOCUMENTED = [(compile_path(path)[0], operations) for path, operations in PATHS.items()]


def build_app() -> Starlette:
    """Build the application; ``app.state.engine`` must be set before the first request."""
    return Starlette(
        routes=[
            Route("/predict", predict, methods=["POST"]),
            Route("/predict/batch", predict_batch, methods=["POST"]),
            Route("/classify", classify, methods=["POST"]),
            *v2.ROUTES,
            Route("/model", card),
            Route("/schema.json", schema),
            Route("/openapi.json", openapi),
            Route("/docs.json", openapi),
            Route("/metrics", metrics),
            Route("/", page),
            Route("/{path:path}", NoSuchRoute()),
        ],
        exception_handlers={Problem: _refuse},
    )


async def _refuse(request: Request, error: Exception) -> Response:
    return refused(error, request.app.state.engine).response(request.scope["path"])


class NoSuchRoute:
    """Answers whatever no other route takes: an unknown path, or a path with the wrong method."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send a problem document; see the ASGI specification."""
        path = scope["path"]
        for pattern, operations in _DOCUMENTED:
            if pattern.match(path):
                allowed = ", ".join(operations).upper()
                problem = Problem(
                    problems.METHOD_NOT_ALLOWED,
                    f"{path} answers {allowed}, not {scope['method']}.",
                    headers={"Allow": allowed},
                )
                break
        else:
            problem = Problem(
                problems.NOT_FOUND,
                f"There is nothing at {path}.",
                hint=f"There are {', '.join(PATHS)}, and a page for people at /.",
            )
        await problem.response(path)(scope, receive, send)
