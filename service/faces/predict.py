"""``POST /predict``: classify one image."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from service.faces.answering import answering, in_time, json_answer, model_of, named, top_k_of
from service.faces.uploads import image_of
from service.inference.engine import Engine
from service.scope import client_of


@answering
async def predict(request: Request, engine: Engine) -> Response:
    """Answer for the image in the body, or in the form."""
    top_k = top_k_of(request)
    client = client_of(request.scope)
    with engine.places.take(client):
        data = await image_of(request, engine.settings.max_bytes)
        async with in_time():
            answered = await engine.answer(data, client)
    predictions = named(engine, answered.probabilities, top_k)
    return json_answer({"model": model_of(engine), "predictions": predictions})
