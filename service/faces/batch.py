"""``POST /predict/batch``: classify many images at once; one that is bad fails alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response

from service.faces.answering import (
    answering,
    gathered,
    json_answer,
    model_of,
    named,
    refused,
    top_k_of,
)
from service.faces.bodies import declared_length
from service.faces.forms import Part
from service.faces.limits import Limits
from service.faces.uploads import file_in, files_of
from service.inference.engine import Engine
from service.scope import client_of


@answering
async def predict_batch(request: Request, engine: Engine) -> Response:
    """Answer for every file in the form, in its order."""
    top_k = top_k_of(request)
    limits = Limits.of(engine.settings)
    held = limits.places(declared_length(request))
    client = client_of(request.scope)
    with engine.places.take(client, held):
        parts = await files_of(request, limits)
        with engine.places.take(client, max(0, len(parts) - held)):
            outcomes = await gathered([_answer(engine, part, client) for part in parts])
    results = [
        _result(engine, part, outcome, top_k) for part, outcome in zip(parts, outcomes, strict=True)
    ]
    return json_answer({"model": model_of(engine), "results": results})


async def _answer(engine: Engine, part: Part, client: str) -> NDArray[np.float64]:
    data = file_in(part, engine.settings.max_bytes)
    # Whoever decodes holds the bytes: the form need not hold them, too.
    part.chunks.clear()
    return (await engine.answer(data, client)).probabilities


def _result(
    engine: Engine, part: Part, outcome: NDArray[np.float64] | Exception, top_k: int
) -> dict[str, Any]:
    result: dict[str, Any] = {"file": part.filename} if part.filename else {}
    if isinstance(outcome, Exception):
        return result | {"error": refused(outcome, engine).members}
    return result | {"predictions": named(engine, outcome, top_k)}
