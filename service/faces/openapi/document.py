"""The paths, and the document around them."""

from __future__ import annotations

from typing import Any

from service.faces import problems
from service.faces.openapi import protocol
from service.faces.openapi.parts import (
    BINARY,
    TOP_K,
    answer,
    by_status,
    get,
    problem_response,
    schema,
    text,
)
from service.faces.openapi.schemas import SCHEMAS
from service.faces.uploads import FIELD, FILES_FIELD


def _form(required: str, **fields: Any) -> dict[str, Any]:
    form = {
        "type": "object",
        "required": [required],
        "properties": fields,
        "additionalProperties": False,
    }
    return {"multipart/form-data": {"schema": form}}


def _classification(
    operation: str, summary: str, content: dict[str, Any], answers: dict[str, Any], **more: Any
) -> dict[str, Any]:
    return {
        "post": {
            "operationId": operation,
            "summary": summary,
            **more,
            "requestBody": {"required": True, "content": content},
            "responses": answers,
        }
    }


PATHS: dict[str, dict[str, Any]] = {
    "/predict": _classification(
        "predict",
        "Classify one image",
        {
            **_form(FIELD, **{FIELD: BINARY}),
            "image/*": {"schema": BINARY},
            "application/octet-stream": {"schema": BINARY},
        },
        {
            **answer("The most probable classes.", schema("Answer")),
            **by_status(*problems.PREDICT_KINDS),
        },
        parameters=[TOP_K],
    ),
    "/predict/batch": _classification(
        "predictBatch",
        "Classify many images; one that cannot be used fails alone",
        _form(FILES_FIELD, **{FILES_FIELD: {"type": "array", "items": BINARY, "minItems": 1}}),
        {
            **answer("For each image its classes, or its problem.", schema("BatchAnswer")),
            **by_status(*problems.BATCH_KINDS),
        },
        parameters=[TOP_K],
    ),
    "/classify": _classification(
        "classify",
        "Classify one image, as BentoML's clients ask for it",
        _form(FIELD, **{FIELD: BINARY, "top_k": TOP_K["schema"]}),
        {
            **answer("The most probable classes.", schema("Predictions")),
            **by_status(*problems.PREDICT_KINDS),
        },
    ),
    "/model": get(
        "model", "The model's card", answer("What is served.", schema("Card")), by_status()
    ),
    **protocol.PATHS,
    "/livez": get("livez", "Is the process alive?", text(200, "It is.")),
    "/healthz": get("healthz", "The same as /livez", text(200, "It is.")),
    "/readyz": get(
        "readyz",
        "Will requests be answered?",
        text(200, "They will."),
        text(503, "Not now."),
    ),
    "/metrics": get(
        "metrics",
        "Prometheus metrics, tlserve_batch_size among them",
        text(200, "In the Prometheus text format."),
        by_status(),
    ),
    "/openapi.json": get(
        "openapi", "This document", answer("OpenAPI 3.1.", {"type": "object"}), by_status()
    ),
    "/docs.json": get(
        "docs", "The same as /openapi.json", answer("OpenAPI 3.1.", {"type": "object"}), by_status()
    ),
    "/schema.json": get(
        "schema",
        "What BentoML's clients can call",
        answer("In BentoML's form.", {"type": "object"}),
        by_status(),
    ),
}


_KEYS = "Where the service was started with API keys."


def document(name: str, version: str, classes: int) -> dict[str, Any]:
    """Describe the service of one model.

    Args:
        name: The model's name.
        version: The model's version.
        classes: How many classes it knows.
    """
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
            "schemas": SCHEMAS,
            "responses": {kind.name: problem_response(kind) for kind in problems.KINDS},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": _KEYS},
                "key": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "X-API-Key",
                    "description": _KEYS,
                },
            },
        },
        "security": [{}, {"bearer": []}, {"key": []}],
    }
