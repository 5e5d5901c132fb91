"""From answers to the body of a response."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.responses import Response

from service.faces.answering import json_answer, json_text
from service.faces.v2.reading import HEADER, Inference, Output
from service.faces.v2.tensors import LABEL, bytes_of_strings
from service.inference.engine import Engine


def response(engine: Engine, inference: Inference, answers: list[NDArray[np.float64]]) -> Response:
    """Write what was asked for; tensors that shall be binary come after the JSON, in order."""
    manifest = engine.predictor.bundle.manifest
    described, binary = [], []
    for output in inference.outputs:
        tensor, data = _tensor(engine, output, answers)
        described.append(tensor)
        binary.append(data)
    content: dict[str, Any] = {"model_name": manifest.name, "model_version": manifest.version}
    if inference.id is not None:
        content["id"] = inference.id
    content["outputs"] = described
    if not any(output.binary for output in inference.outputs):
        return json_answer(content)
    text = json_text(content).encode()
    return Response(
        b"".join([text, *binary]),
        headers={HEADER: str(len(text))},
        media_type="application/octet-stream",
    )


def _tensor(
    engine: Engine, output: Output, answers: list[NDArray[np.float64]]
) -> tuple[dict[str, Any], bytes]:
    """Describe one output; the bytes are those that come after the JSON."""
    if output.classes or output.name == LABEL:
        rows = _classes(engine, output, answers)
        strings = [string for row in rows for string in row]
        shape = [len(rows)] if output.name == LABEL else [len(rows), len(rows[0])]
        datatype, data = "BYTES", bytes_of_strings(strings) if output.binary else b""
        values: list[Any] = strings
    else:
        table = np.stack(answers).astype("<f4")
        datatype, shape = "FP32", list(table.shape)
        data = table.tobytes() if output.binary else b""
        values = [] if output.binary else table.ravel().tolist()
    tensor: dict[str, Any] = {"name": output.name, "datatype": datatype, "shape": shape}
    if output.binary:
        return tensor | {"parameters": {"binary_data_size": len(data)}}, data
    return tensor | {"data": values}, b""


def _classes(engine: Engine, output: Output, answers: list[NDArray[np.float64]]) -> list[list[str]]:
    """Name the classes of each image: the label, or ``probability:index:label`` of several."""
    predictor = engine.predictor
    if output.name == LABEL:
        return [[predictor.top(answer, 1)[0].label] for answer in answers]
    index = {label: i for i, label in enumerate(predictor.bundle.manifest.classes)}
    return [
        [
            f"{found.probability:f}:{index[found.label]}:{found.label}"
            for found in predictor.top(answer, output.classes)
        ]
        for answer in answers
    ]
