from __future__ import annotations

from typing import Any

import httpx
import jsonschema
import openapi_spec_validator
import pytest
from starlette.routing import Route

from service.faces import problems
from service.faces.app import build_app
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


def test_it_is_an_openapi_document(document: dict[str, Any]) -> None:
    openapi_spec_validator.validate(document)


def test_every_path_of_it_exists_and_no_other(
    client: httpx.Client, document: dict[str, Any], bundle: Bundle
) -> None:
    routed = {route.path for route in build_app().routes if isinstance(route, Route)}
    probes = {"/livez", "/readyz", "/healthz"}
    assert routed | probes == {*document["paths"], "/", "/{path:path}"}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            url = path.format(name="insects", version=bundle.manifest.version)
            response = client.request(method, url)
            assert str(response.status_code) in operation["responses"], (method, path)
            assert response.status_code not in (404, 405)
            other = client.request("DELETE", url)
            assert other.status_code == 405
            assert other.headers["allow"] == method.upper()


def test_it_names_every_problem_and_its_headers(document: dict[str, Any]) -> None:
    responses = document["components"]["responses"]
    assert set(responses) == {kind.name for kind in problems.KINDS}
    assert "Retry-After" in responses["Busy"]["headers"]
    assert "Retry-After" in responses["TooManyRequests"]["headers"]
    assert "WWW-Authenticate" in responses["Unauthorized"]["headers"]
    described = {
        status
        for operations in document["paths"].values()
        for operation in operations.values()
        for status in operation["responses"]
    }
    # A method that a path does not have is not an operation, and so has no place in the document.
    assert {str(kind.status) for kind in problems.KINDS} - described == {"405"}


def test_answers_and_problems_follow_it(
    client: httpx.Client, document: dict[str, Any], bundle: Bundle
) -> None:
    assert document["info"]["version"] == bundle.manifest.version
    answer = client.post("/predict", content=bundles.image(1))
    validate(document, "Answer", answer.json())
    files = [("images", ("a.jpg", bundles.image(1))), ("images", ("b.jpg", b"?"))]
    validate(document, "BatchAnswer", client.post("/predict/batch", files=files).json())
    predictions = client.post("/classify", files={"image": bundles.image(1)}).json()
    validate(document, "Predictions", predictions)
    validate(document, "Card", client.get("/model").json())
    validate(document, "ServerMetadata", client.get("/v2").json())
    validate(document, "Live", client.get("/v2/health/live").json())
    validate(document, "Ready", client.get("/v2/health/ready").json())
    validate(document, "Ready", client.get("/v2/models/insects/ready").json())
    validate(document, "ModelMetadata", client.get("/v2/models/insects").json())
    for response in (client.post("/predict", content=b"?"), client.get("/predict")):
        validate(document, "Problem", response.json())
        # The type of a problem is where the document describes it.
        assert resolved(document, response.json()["type"].partition("#")[2].lstrip("/"))
