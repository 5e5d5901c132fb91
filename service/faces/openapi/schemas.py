"""The schemas of what the service answers with."""

from __future__ import annotations

from typing import Any, get_args

from service.faces.openapi.parts import schema
from service.observe.verdict import BOUNDS
from tlserve.bundle.manifest import Precision


def record(optional: dict[str, Any] | None = None, **required: Any) -> dict[str, Any]:
    """Describe an object by its members."""
    return {
        "type": "object",
        "required": list(required),
        "properties": {**required, **(optional or {})},
    }


def array(items: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Describe a list."""
    return {"type": "array", "items": items, **more}


STRING = {"type": "string"}
INTEGER = {"type": "integer", "minimum": 0}
OBJECT = {"type": "object"}
BOOLEAN = {"type": "boolean"}

_DATATYPE = {"enum": ["BYTES", "FP32"]}
_TENSOR: dict[str, Any] = {
    "name": STRING,
    "datatype": _DATATYPE,
    "shape": array({"type": "integer"}),
}
_PREDICTIONS = array(schema("Prediction"), description="Most probable first.", minItems=1)

SCHEMAS: dict[str, Any] = {
    "Answer": record(model=schema("Model"), predictions=_PREDICTIONS),
    "BatchAnswer": record(
        model=schema("Model"),
        results=array(
            {
                "oneOf": [
                    record({"file": STRING}, predictions=_PREDICTIONS),
                    record({"file": STRING}, error=schema("Problem")),
                ]
            },
            description="One for each image, in their order.",
            minItems=1,
        ),
    ),
    "Model": record(name=STRING, version=STRING),
    "Prediction": record(label=STRING, probability={"type": "number", "minimum": 0, "maximum": 1}),
    "Predictions": _PREDICTIONS,
    "Card": record(
        name=STRING,
        version=STRING,
        architecture=STRING,
        classes=array(STRING, minItems=2),
        preprocessing=OBJECT,
        calibration=OBJECT,
        backend=STRING,
        device={"enum": ["cpu", "cuda"]},
        precision={"enum": [*get_args(Precision)]},
        metrics=record(val_accuracy={"type": "number"}),
        files={
            "type": "object",
            "description": "Those that can be run. Parity is null for the weights themselves.",
            "additionalProperties": record(
                kind=STRING,
                precision=STRING,
                sha256=STRING,
                bytes=INTEGER,
                parity={"type": ["object", "null"]},
            ),
        },
        provenance=OBJECT,
        load=record(
            by={"enum": list(BOUNDS)},
            preparing={"type": "number", "minimum": 0, "maximum": 1},
            inference={"type": "number", "minimum": 0, "maximum": 1},
            advice=STRING,
        ),
        limits=record(
            image_bytes=INTEGER,
            image_pixels=INTEGER,
            images=INTEGER,
            request_bytes=INTEGER,
            queue=INTEGER,
        ),
    ),
    "ServerMetadata": record(name=STRING, version=STRING, extensions=array(STRING)),
    "Live": record(live=BOOLEAN),
    "Ready": record({"name": STRING}, ready=BOOLEAN),
    "ModelMetadata": record(
        name=STRING,
        versions=array(STRING),
        platform=STRING,
        inputs=array(record(**_TENSOR)),
        outputs=array(record(**_TENSOR)),
    ),
    "InferenceRequest": record(
        {
            "id": STRING,
            "parameters": OBJECT,
            "outputs": array(record({"parameters": OBJECT}, name=STRING)),
        },
        inputs=array(
            record({"parameters": OBJECT, "data": array({})}, **_TENSOR), minItems=1, maxItems=1
        ),
    ),
    "InferenceAnswer": record(
        {"id": STRING},
        model_name=STRING,
        model_version=STRING,
        outputs=array(record({"parameters": OBJECT, "data": array({})}, **_TENSOR)),
    ),
    "Problem": {
        "description": "RFC 9457.",
        **record(
            {
                "hint": STRING | {"description": "What to do next."},
                "request_id": STRING | {"description": "As in the header X-Request-ID."},
                "error": STRING
                | {"description": "Under /v2: the same in one sentence, as its clients expect."},
            },
            type=STRING | {"format": "uri-reference"},
            title=STRING,
            status={"type": "integer"},
            detail=STRING,
        ),
    },
}
