"""What all routes that answer for images share: errors, metrics, and the form of an answer."""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from service.faces import problems
from service.faces.problems import Problem
from service.inference.engine import Engine
from service.inference.places import QueueFullError
from service.scope import CLIENT_CLOSED, ENDED
from tlserve.errors import ImageError, ImageTooLargeError

logger = logging.getLogger(__name__)

DEFAULT_TOP_K = 5

_ANSWER_SECONDS = 25.0
"""With the time for a body less than BentoML's timeout, whose answer is no problem document."""

_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))

Handler = Callable[[Request, Engine], Awaitable[Response]]


def answering(handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    """Make a route of a handler: time it, and turn whatever it raises into a problem document."""

    @functools.wraps(handler)
    async def answer(request: Request) -> Response:
        engine: Engine = request.app.state.engine
        started = time.perf_counter()
        try:
            response = await handler(request, engine)
        except ClientDisconnect:
            # Nobody is there to read this: the connection is closed, or has been answered itself.
            state = request.scope.get("state", {})
            response = Response(status_code=state.get(ENDED, CLIENT_CLOSED))
        except Exception as error:  # noqa: BLE001 - further out it would come as plain text
            response = refused(error, engine).response(request.scope["path"])
        engine.metrics.answered(time.perf_counter() - started)
        return response

    return answer


def refused(error: Exception, engine: Engine) -> Problem:
    """Count what an exception means for the client."""
    problem = problem_of(error)
    engine.metrics.rejected(problem.kind.name)
    return problem


def problem_of(error: Exception) -> Problem:
    """Say what an exception means for the client; what is a defect is logged."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, ImageTooLargeError):
        return Problem(problems.TOO_MANY_PIXELS, error.message, hint=error.hint)
    if isinstance(error, ImageError):
        return Problem(problems.UNDECODABLE_IMAGE, error.message, hint=error.hint)
    if isinstance(error, QueueFullError):
        return problems.busy(error.rule, error.wait)
    logger.error("A request failed", exc_info=error)
    return Problem(problems.INTERNAL_ERROR, "The answer could not be made; the log says why.")


class in_time:  # noqa: N801 - used like `asyncio.timeout`
    """Give up on an answer that takes too long.

    Raises:
        Problem: It did.
    """

    # A class, for a generator would cost every request more than what it does.
    __slots__ = ("_timeout",)

    async def __aenter__(self) -> None:
        """Begin to wait."""
        self._timeout = asyncio.timeout(_ANSWER_SECONDS)
        await self._timeout.__aenter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End it."""
        try:
            await self._timeout.__aexit__(kind, error, traceback)
        except TimeoutError as late:
            raise Problem(
                problems.TIMEOUT,
                f"There was no answer after {_ANSWER_SECONDS:.0f} seconds.",
                hint="Try again later; /metrics shows how long images wait.",
            ) from late


async def gathered(
    answers: Sequence[Awaitable[NDArray[np.float64]]],
) -> list[NDArray[np.float64] | Exception]:
    """Wait for the answers to several images; one that cannot be given does not end the others."""
    async with in_time():
        return await asyncio.gather(*(_outcome(answer) for answer in answers))


async def _outcome(
    answer: Awaitable[NDArray[np.float64]],
) -> NDArray[np.float64] | Exception:
    try:
        return await answer
    except Exception as error:  # noqa: BLE001 - it is told with this image's answer
        return error


def named(engine: Engine, probabilities: NDArray[np.float64], k: int) -> list[dict[str, Any]]:
    """Name the most probable classes, as members of an answer."""
    top = engine.predictor.top(probabilities, k)
    return [{"label": p.label, "probability": p.probability} for p in top]


def model_of(engine: Engine) -> dict[str, str]:
    """Say which model answered."""
    manifest = engine.predictor.bundle.manifest
    return {"name": manifest.name, "version": manifest.version}


def json_answer(content: Any) -> Response:
    """Write an answer.

    Raises:
        ValueError: A probability is no number: it has no JSON form, and is a defect.
    """
    return Response(json_text(content), media_type="application/json")


def json_text(content: Any) -> str:
    """Write JSON, compact and strict."""
    return _ENCODER.encode(content)


def top_k_of(request: Request) -> int:
    """Read how many classes shall be named.

    Raises:
        Problem: It is not one positive integer.
    """
    # Most requests have no query, and need not have it parsed.
    if not request.scope["query_string"]:
        return DEFAULT_TOP_K
    values = request.query_params.getlist("top_k")
    return parsed_top_k(values) if values else DEFAULT_TOP_K


def parsed_top_k(values: Sequence[str]) -> int:
    """Parse the values that were given for ``top_k``.

    Raises:
        Problem: There are several, or it is not a positive integer.
    """
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
