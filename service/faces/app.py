"""The HTTP face: a Starlette application that BentoML mounts beside its own routes."""

from __future__ import annotations

import asyncio
import json
import logging
import time

from starlette.applications import Starlette
from starlette.convertors import Convertor, register_url_convertor
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from service.faces import problems
from service.faces.bodies import image_of
from service.faces.openapi import DEFAULT_TOP_K, PATHS, document
from service.faces.problems import Problem
from service.guard.headers import page_policy
from service.inference.engine import Engine, QueueFullError
from tlserve.errors import ImageTooLargeError, UndecodableImageError
from tlserve.runtime import Prediction

logger = logging.getLogger(__name__)

_ANSWER_SECONDS = 25.0
"""With the time for a body less than BentoML's timeout, whose answer is no problem document."""

# BentoML's page reports its visitors to an analytics service; this one shows the same without.
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>tlserve</title>
<link rel="stylesheet" href="./static_content/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="./static_content/swagger-ui-bundle.js"></script>
<script>
SwaggerUIBundle({url: "./openapi.json", dom_id: "#swagger-ui", validatorUrl: null});
</script>
</body>
</html>
"""
_PAGE_POLICY = page_policy(_PAGE)


class _OtherPath(Convertor[str]):
    """Every path but those of the files that BentoML serves for the page."""

    regex = "(?!static_content/).*"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("other", _OtherPath())


def build_app() -> Starlette:
    """Build the application; ``app.state.engine`` must be set before the first request."""
    return Starlette(
        routes=[
            Route("/predict", predict, methods=["POST"]),
            Route("/openapi.json", openapi),
            Route("/docs.json", openapi),
            Route("/metrics", metrics),
            Route("/", page),
            Route("/{path:other}", NoSuchRoute()),
        ]
    )


async def predict(request: Request) -> Response:
    """``POST /predict``: classify one image."""
    engine: Engine = request.app.state.engine
    started = time.perf_counter()
    response = await _answer_or_problem(request, engine)
    engine.metrics.answered(time.perf_counter() - started)
    return response


async def _answer_or_problem(request: Request, engine: Engine) -> Response:
    try:
        return await _predict(request, engine)
    except Problem as problem:
        answer = problem
    except ClientDisconnect:
        # Nobody is there to read this; the connection is closed.
        return Response(status_code=400)
    except Exception:
        # Further out it would come as plain text, or not before BentoML's timeout.
        logger.exception("A request to /predict failed")
        answer = Problem(problems.INTERNAL_ERROR, "The answer could not be made; the log says why.")
    engine.metrics.rejected(answer.kind.name)
    return answer.response()


async def _predict(request: Request, engine: Engine) -> Response:
    top_k = _top_k(request)
    try:
        with engine.place():
            data = await image_of(request, engine.settings.max_bytes)
            async with asyncio.timeout(_ANSWER_SECONDS):
                answered = await engine.answer(data)
    except UndecodableImageError as error:
        raise Problem(problems.UNDECODABLE_IMAGE, error.message, hint=error.hint) from error
    except ImageTooLargeError as error:
        raise Problem(problems.TOO_MANY_PIXELS, error.message, hint=error.hint) from error
    except QueueFullError as error:
        raise problems.busy(error.rule, error.wait) from error
    except TimeoutError as error:
        raise Problem(
            problems.TIMEOUT,
            f"There was no answer after {_ANSWER_SECONDS:.0f} seconds.",
            hint="Try again later; /metrics shows how long images wait.",
        ) from error
    return _answer(engine, engine.predictor.top(answered.probabilities, top_k))


def _answer(engine: Engine, predictions: list[Prediction]) -> Response:
    manifest = engine.predictor.bundle.manifest
    content = {
        "model": {"name": manifest.name, "version": manifest.version},
        "predictions": [{"label": p.label, "probability": p.probability} for p in predictions],
    }
    # A probability that is no number must not leave: it has no JSON form, and is a defect.
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Response(text, media_type="application/json")


def _top_k(request: Request) -> int:
    values = request.query_params.getlist("top_k")
    if not values:
        return DEFAULT_TOP_K
    text = values[0]
    if len(values) > 1 or not (text.isascii() and text.isdecimal()) or not text.strip("0"):
        given = ", ".join(repr(value[:40]) for value in values[:5])
        raise Problem(
            problems.INVALID_TOP_K,
            f"top_k must be one positive integer, not {given}.",
            hint="For example ?top_k=3.",
        )
    # No model has that many classes, and Python refuses to parse very long numbers.
    return int(text) if len(text) < 10 else 10**9


async def openapi(request: Request) -> Response:
    """``GET /openapi.json``: the OpenAPI document."""
    engine: Engine = request.app.state.engine
    manifest = engine.predictor.bundle.manifest
    return JSONResponse(document(manifest.name, manifest.version, len(manifest.classes)))


async def metrics(request: Request) -> Response:
    """``GET /metrics``: for Prometheus."""
    engine: Engine = request.app.state.engine
    text, content_type = engine.metrics.exposition()
    return Response(text, headers={"Content-Type": content_type})


async def page(_: Request) -> Response:
    """``GET /``: the documentation, for people."""
    return HTMLResponse(_PAGE, headers={"Content-Security-Policy": _PAGE_POLICY})


class NoSuchRoute:
    """Answers whatever no other route takes: an unknown path, or a path with the wrong method."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send a problem document; see the ASGI specification."""
        request = Request(scope)
        operations = PATHS.get(request.url.path)
        if operations is None:
            problem = Problem(
                problems.NOT_FOUND,
                f"There is nothing at {request.url.path}.",
                hint=f"There are {', '.join(PATHS)}, and a page for people at /.",
            )
        else:
            allowed = ", ".join(operations).upper()
            problem = Problem(
                problems.METHOD_NOT_ALLOWED,
                f"{request.url.path} answers {allowed}, not {request.method}.",
                headers={"Allow": allowed},
            )
        await problem.response()(scope, receive, send)
