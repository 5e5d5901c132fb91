from __future__ import annotations

from typing import Any

import httpx
import jsonschema
import pytest

from tests.service import bundle as bundles
from tlserve.bundle import Bundle


@pytest.fixture
def document(client: httpx.Client) -> dict[str, Any]:
    response = client.get("/openapi.json")
    assert response.status_code == 200
    # BentoML's own page asks for this one.
    assert client.get("/docs.json").json() == response.json()
    found: dict[str, Any] = response.json()
    return found


def resolved(document: dict[str, Any], reference: str) -> Any:
    node: Any = document
    for key in reference.removeprefix("#/").split("/"):
        node = node[key]
    return node


def references(node: Any) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if "$ref" in node else []
        return own + [ref for value in node.values() for ref in references(value)]
    if isinstance(node, list):
        return [ref for value in node for ref in references(value)]
    return []


def validate(document: dict[str, Any], name: str, instance: Any) -> None:
    schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
    jsonschema.Draft202012Validator(schema).validate(instance)


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1")
    for reference in references(document):
        assert resolved(document, reference)
    for schema in document["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)


def test_every_path_of_it_exists(client: httpx.Client, document: dict[str, Any]) -> None:
    assert {"/predict", "/livez", "/readyz", "/metrics"} <= set(document["paths"])
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            response = client.request(method, path)
            assert str(response.status_code) in operation["responses"], (method, path)
            assert response.status_code not in (404, 405)


def test_answers_and_problems_follow_it(
    client: httpx.Client, document: dict[str, Any], bundle: Bundle
) -> None:
    assert document["info"]["version"] == bundle.manifest.version
    answer = client.post("/predict", content=bundles.image(1))
    validate(document, "Answer", answer.json())
    for response in (client.post("/predict", content=b"?"), client.get("/predict")):
        validate(document, "Problem", response.json())
        # The type of a problem is where the document describes it.
        assert resolved(document, response.json()["type"].partition("#")[2].lstrip("/"))
