"""``POST /classify``: what BentoML's clients call as ``client.classify(image=Path("bee.jpg"))``.

A client reads ``/schema.json`` and calls what that lists. There is no BentoML method behind it: its
routes would load the body in whatever form the client names, fetch URLs that stand in the place of
a file, and answer 500 for an image that cannot be decoded.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from service.faces import problems
from service.faces.answering import (
    DEFAULT_TOP_K,
    answering,
    in_time,
    json_answer,
    named,
    parsed_top_k,
)
from service.faces.problems import Problem
from service.faces.uploads import FIELD, image_and_values, is_form
from service.inference.engine import Engine
from service.scope import client_of

_PREDICTION = {
    "type": "object",
    "title": "Prediction",
    "properties": {
        "label": {"title": "Label", "type": "string"},
        "probability": {"title": "Probability", "type": "number"},
    },
    "required": ["label", "probability"],
}

_SCHEMA = {
    "name": "tlserve",
    "type": "service",
    "description": "Classifies images with the model of one bundle.",
    "routes": [
        {
            "name": "classify",
            "route": "/classify",
            "doc": "Name the most probable classes of an image, most probable first.",
            "batchable": False,
            "is_task": False,
            "input": {
                "title": "Input",
                "type": "object",
                "properties": {
                    FIELD: {"title": "Image", "type": "file", "format": "binary"},
                    "top_k": {"title": "Top K", "type": "integer", "default": DEFAULT_TOP_K},
                },
                "required": [FIELD],
            },
            "output": {"type": "array", "items": _PREDICTION},
        }
    ],
}


@answering
async def classify(request: Request, engine: Engine) -> Response:
    """Answer for the image in the form, with nothing but the list of its classes."""
    client = client_of(request.scope)
    with engine.places.take(client):
        if not is_form(request):
            raise Problem(
                problems.UNSUPPORTED_TYPE,
                "This path takes multipart/form-data, as BentoML's clients send it.",
                hint="Post the image itself to /predict.",
            )
        data, values = await image_and_values(request, engine.settings.max_bytes, ("top_k",))
        top_k = parsed_top_k([values["top_k"]]) if "top_k" in values else DEFAULT_TOP_K
        async with in_time():
            answered = await engine.answer(data, client)
    return json_answer(named(engine, answered.probabilities, top_k))


async def schema(_: Request) -> Response:
    """``GET /schema.json``: what BentoML's clients can call, in BentoML's form."""
    return JSONResponse(_SCHEMA)
