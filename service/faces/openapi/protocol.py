"""The paths of the Open Inference Protocol."""

from __future__ import annotations

from typing import Any

from service.faces import problems
from service.faces.openapi.parts import BINARY, answer, by_status, get, schema
from service.faces.v2.reading import HEADER


def _parameter(name: str, description: str) -> dict[str, Any]:
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": description,
        "schema": {"type": "string"},
    }


_NAME = _parameter("name", "The model's name.")
_VERSION = _parameter("version", "The model's version.")
_LENGTH = {"description": "The length of the JSON, where binary data follows it."}

_ONLY_THIS_MODEL = by_status(problems.NO_SUCH_MODEL)
_CONTENT = {
    "application/json": {"schema": schema("InferenceRequest")},
    "application/octet-stream": {"schema": BINARY},
}


def _not_ready() -> dict[str, Any]:
    content = {"application/json": {"schema": schema("Ready")}}
    return {"503": {"description": "Not now.", "content": content}}


def _infer(operation: str, parameters: list[dict[str, Any]]) -> dict[str, Any]:
    header = {"name": HEADER, "in": "header", "schema": {"type": "integer"}, **_LENGTH}
    return {
        "post": {
            "operationId": operation,
            "summary": "Classify images, or tensors that are preprocessed already",
            "parameters": [*parameters, header],
            "requestBody": {"required": True, "content": _CONTENT},
            "responses": {
                "200": {
                    "description": "What was asked for; JSON, with binary data after it if so.",
                    "headers": {HEADER: {"schema": {"type": "integer"}, **_LENGTH}},
                    "content": {
                        "application/json": {"schema": schema("InferenceAnswer")},
                        "application/octet-stream": {"schema": BINARY},
                    },
                },
                **by_status(*problems.INFER_KINDS),
            },
        }
    }


def _of_model(path: str, suffix: str, parameters: list[dict[str, Any]]) -> dict[str, Any]:
    is_ready = answer("They will.", schema("Ready"))
    return {
        path: get(
            f"v2Model{suffix}",
            "Inputs and outputs",
            answer("The model's metadata.", schema("ModelMetadata")),
            _ONLY_THIS_MODEL,
            parameters=parameters,
        ),
        f"{path}/ready": get(
            f"v2ModelReady{suffix}",
            "Will requests be answered?",
            is_ready,
            _ONLY_THIS_MODEL,
            _not_ready(),
            parameters=parameters,
        ),
        f"{path}/infer": _infer(f"v2Infer{suffix}", parameters),
    }


PATHS: dict[str, dict[str, Any]] = {
    "/v2": get(
        "v2Server", "Server metadata", answer("The server.", schema("ServerMetadata")), by_status()
    ),
    "/v2/health/live": get(
        "v2Live", "Is the process alive?", answer("It is.", schema("Live")), by_status()
    ),
    "/v2/health/ready": get(
        "v2Ready",
        "Will requests be answered?",
        answer("They will.", schema("Ready")),
        by_status(),
        _not_ready(),
    ),
    **_of_model("/v2/models/{name}", "", [_NAME]),
    **_of_model("/v2/models/{name}/versions/{version}", "Version", [_NAME, _VERSION]),
}
