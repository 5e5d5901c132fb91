"""The protocol's routes."""

from __future__ import annotations

from starlette.routing import Route

from service.faces.v2.infer import infer
from service.faces.v2.metadata import live, model, model_ready, ready, server

_MODEL = "/v2/models/{name}"
_VERSION = f"{_MODEL}/versions/{{version}}"

ROUTES = [
    Route(f"{_MODEL}/infer", infer, methods=["POST"]),
    Route(f"{_VERSION}/infer", infer, methods=["POST"]),
    Route("/v2", server),
    Route("/v2/health/live", live),
    Route("/v2/health/ready", ready),
    Route(_MODEL, model),
    Route(_VERSION, model),
    Route(f"{_MODEL}/ready", model_ready),
    Route(f"{_VERSION}/ready", model_ready),
]
