"""``POST /v2/models/{name}/infer``."""

from __future__ import annotations

import asyncio

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response

from service.faces import problems
from service.faces.answering import answering, gathered, problem_of
from service.faces.bodies import body_of, declared_length, must_be_plain
from service.faces.limits import Limits
from service.faces.problems import Problem
from service.faces.uploads import checked_image
from service.faces.v2.metadata import must_be_served
from service.faces.v2.reading import HEADER, Accepted, Inference, read
from service.faces.v2.responding import response
from service.faces.v2.tensors import invalid
from service.inference.engine import Engine
from service.scope import client_of

_JSON_BYTES = 64 * 1024
"""What the JSON may have beside its data."""

_READ_IN_THREAD_BYTES = 2**20
"""A larger body takes milliseconds to read, in which nobody else would be answered."""


@answering
async def infer(request: Request, engine: Engine) -> Response:
    """Answer for each image or tensor of the request; if one cannot be used, none is answered."""
    must_be_served(request, engine)
    must_be_plain(request)
    limits = Limits.of(engine.settings)
    held = limits.places(declared_length(request))
    client = client_of(request.scope)
    with engine.places.take(client, held):
        inference = await _read(request, engine, limits)
        with engine.places.take(client, max(0, inference.count - held)):
            answers = await _answers(engine, inference, client)
    return response(engine, inference, answers)


async def _read(request: Request, engine: Engine, limits: Limits) -> Inference:
    header_length = request.headers.get(HEADER)
    json_bytes = limits.image_bytes + _JSON_BYTES
    limit = json_bytes if header_length is None else limits.total_bytes + _JSON_BYTES
    too_large = Problem(
        problems.TOO_MANY_BYTES,
        f"The body may have {limit:,} bytes, and {limits.total_bytes + _JSON_BYTES:,} with binary "
        "data.",
        hint="Send fewer images in a request, or the data binary.",
    )
    body = await body_of(request, limit, too_large)
    crop = engine.predictor.bundle.manifest.preprocessing.crop
    accepted = Accepted(limits.images, json_bytes, crop)
    if len(body) < _READ_IN_THREAD_BYTES:
        return read(body, header_length, accepted)
    return await asyncio.to_thread(read, body, header_length, accepted)


async def _answers(engine: Engine, inference: Inference, client: str) -> list[NDArray[np.float64]]:
    if inference.tensors is not None:
        outcomes = await gathered(
            [_of_tensor(engine, tensor, client) for tensor in inference.tensors]
        )
    else:
        outcomes = await gathered(
            [_of_image(engine, data, client) for data in inference.images or ()]
        )
    answers = []
    for index, outcome in enumerate(outcomes):
        if isinstance(outcome, Exception):
            problem = problem_of(outcome)
            problem.detail = f"Image {index}: {problem.detail}"
            raise problem
        answers.append(outcome)
    return answers


async def _of_image(engine: Engine, data: bytes, client: str) -> NDArray[np.float64]:
    checked_image(data, len(data), engine.settings.max_bytes)
    probabilities = (await engine.answer(data, client)).probabilities
    if not np.isfinite(probabilities).all():
        raise ValueError("a probability is no number")
    return probabilities


async def _of_tensor(
    engine: Engine, tensor: NDArray[np.float32], client: str
) -> NDArray[np.float64]:
    probabilities = (await engine.answer_tensor(tensor, client)).probabilities
    if not np.isfinite(probabilities).all():
        raise invalid(
            "The network's answer to these values is not finite.",
            hint="They must be preprocessed as /model says; images need not be.",
        )
    return probabilities
