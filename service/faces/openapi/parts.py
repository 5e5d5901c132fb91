"""What the descriptions of the paths are made of."""

from __future__ import annotations

from typing import Any

from service.faces import problems
from service.faces.answering import DEFAULT_TOP_K
from service.faces.problems import Kind

BINARY = {"type": "string", "format": "binary"}

TOP_K = {
    "name": "top_k",
    "in": "query",
    "description": "How many classes to name; all, if there are fewer.",
    "schema": {"type": "integer", "minimum": 1, "default": DEFAULT_TOP_K},
}

_HEADERS: dict[Kind, dict[str, Any]] = {
    problems.UNAUTHORIZED: {
        "WWW-Authenticate": {
            "description": "Which credentials are accepted.",
            "schema": {"type": "string"},
        }
    },
    problems.METHOD_NOT_ALLOWED: {
        "Allow": {"description": "The methods there are.", "schema": {"type": "string"}}
    },
    problems.TOO_MANY_REQUESTS: {
        "Retry-After": {
            "description": "Seconds until the next request is answered.",
            "schema": {"type": "integer"},
        }
    },
    problems.BUSY: {
        "Retry-After": {
            "description": "Seconds after which to try again.",
            "schema": {"type": "integer"},
        }
    },
}


def schema(name: str) -> dict[str, str]:
    """Refer to a schema."""
    return {"$ref": f"#/components/schemas/{name}"}


def by_status(*kinds: Kind) -> dict[str, Any]:
    """Describe the problems of a request; kinds that share a status become one answer."""
    statuses: dict[int, list[Kind]] = {}
    for kind in (*kinds, *problems.GUARD_KINDS):
        statuses.setdefault(kind.status, []).append(kind)
    return {
        str(status): (
            {"$ref": f"#/components/responses/{same[0].name}"}
            if len(same) == 1
            else problem_response(*same)
        )
        for status, same in sorted(statuses.items())
    }


def problem_response(*kinds: Kind) -> dict[str, Any]:
    """Describe a problem document that is one of several kinds."""
    response: dict[str, Any] = {
        "description": ". Or: ".join(kind.title for kind in kinds),
        "content": {problems.MEDIA_TYPE: {"schema": schema("Problem")}},
    }
    headers = {name: header for kind in kinds for name, header in _HEADERS.get(kind, {}).items()}
    return response | {"headers": headers} if headers else response


def get(operation: str, summary: str, *responses: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Describe a path that answers GET."""
    found = {status: answer for answers in responses for status, answer in answers.items()}
    return {"get": {"operationId": operation, "summary": summary, **more, "responses": found}}


def answer(
    description: str, content: dict[str, Any], media_type: str = "application/json"
) -> dict[str, Any]:
    """Describe the answer with status 200."""
    return {"200": {"description": description, "content": {media_type: {"schema": content}}}}


def text(status: int, description: str, media_type: str = "text/plain") -> dict[str, Any]:
    """Describe an answer for people or probes."""
    content = {media_type: {"schema": {"type": "string"}}}
    return {str(status): {"description": description, "content": content}}
