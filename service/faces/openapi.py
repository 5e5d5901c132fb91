"""The OpenAPI document: written down, because it is a promise and not a by-product."""

from __future__ import annotations

from typing import Any

from service.faces import problems
from service.faces.bodies import FIELD
from service.faces.problems import Kind

DEFAULT_TOP_K = 5

_BINARY = {"type": "string", "format": "binary"}


def _reference(kind: Kind) -> dict[str, str]:
    return {"$ref": f"#/components/responses/{kind.name}"}


def _by_status(kinds: tuple[Kind, ...]) -> dict[str, Any]:
    """Describe the answers to a request; kinds that share a status become one answer."""
    statuses: dict[int, list[Kind]] = {}
    for kind in kinds:
        statuses.setdefault(kind.status, []).append(kind)
    return {
        str(status): (
            _reference(same[0])
            if len(same) == 1
            else _problem_response(". Or: ".join(kind.title for kind in same))
        )
        for status, same in sorted(statuses.items())
    }


def _problem_response(description: str) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/Problem"}
    return {"description": description, "content": {problems.MEDIA_TYPE: {"schema": schema}}}


def _text(description: str) -> dict[str, Any]:
    return {"description": description, "content": {"text/plain": {"schema": {"type": "string"}}}}


def _json_document(description: str) -> dict[str, Any]:
    content = {"application/json": {"schema": {"type": "object"}}}
    return {"200": {"description": description, "content": content}}


_PREDICT = {
    "operationId": "predict",
    "summary": "Classify one image",
    "parameters": [
        {
            "name": "top_k",
            "in": "query",
            "description": "How many classes to name; all, if there are fewer.",
            "schema": {"type": "integer", "minimum": 1, "default": DEFAULT_TOP_K},
        }
    ],
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": [FIELD],
                    "properties": {FIELD: _BINARY},
                    "additionalProperties": False,
                }
            },
            "image/*": {"schema": _BINARY},
            "application/octet-stream": {"schema": _BINARY},
        },
    },
    "responses": {
        "200": {
            "description": "The most probable classes.",
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Answer"}}},
        },
        **_by_status(problems.PREDICT_KINDS),
    },
}

PATHS: dict[str, dict[str, Any]] = {
    "/predict": {"post": _PREDICT},
    "/livez": {
        "get": {
            "operationId": "livez",
            "summary": "Is the process alive?",
            "responses": {"200": _text("It is.")},
        }
    },
    "/readyz": {
        "get": {
            "operationId": "readyz",
            "summary": "Will requests be answered?",
            "responses": {"200": _text("They will."), "503": _text("Not now.")},
        }
    },
    "/metrics": {
        "get": {
            "operationId": "metrics",
            "summary": "Prometheus metrics, tlserve_batch_size among them",
            "responses": {"200": _text("In the Prometheus text format.")},
        }
    },
    "/openapi.json": {
        "get": {
            "operationId": "openapi",
            "summary": "This document",
            "responses": _json_document("OpenAPI 3.1."),
        }
    },
}

_SCHEMAS: dict[str, Any] = {
    "Answer": {
        "type": "object",
        "required": ["model", "predictions"],
        "properties": {
            "model": {
                "type": "object",
                "required": ["name", "version"],
                "properties": {"name": {"type": "string"}, "version": {"type": "string"}},
            },
            "predictions": {
                "type": "array",
                "description": "Most probable first.",
                "minItems": 1,
                "items": {"$ref": "#/components/schemas/Prediction"},
            },
        },
    },
    "Prediction": {
        "type": "object",
        "required": ["label", "probability"],
        "properties": {
            "label": {"type": "string"},
            "probability": {"type": "number", "minimum": 0, "maximum": 1},
        },
    },
    "Problem": {
        "type": "object",
        "description": "RFC 9457.",
        "required": ["type", "title", "status", "detail"],
        "properties": {
            "type": {"type": "string", "format": "uri-reference"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
            "hint": {"type": "string", "description": "What to do next."},
        },
    },
}


def document(name: str, version: str, classes: int) -> dict[str, Any]:
    """Describe the service of one model.

    Args:
        name: The model's name.
        version: The model's version.
        classes: How many classes it knows.
    """
    kinds = (*problems.PREDICT_KINDS, problems.NOT_FOUND, problems.METHOD_NOT_ALLOWED)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"{name}: image classification",
            "version": version,
            "description": f"Names the most probable of {classes} classes for an image.",
        },
        "servers": [{"url": "/"}],
        "paths": PATHS,
        "components": {
            "schemas": _SCHEMAS,
            "responses": {
                kind.name: _problem_response(kind.title) for kind in (*kinds, *problems.GUARD_KINDS)
            },
        },
    }
