"""Which part of the service a path belongs to: a name from a short list, never the path."""

from __future__ import annotations

FACES = {
    "": "page",
    "predict": "predict",
    "classify": "classify",
    "v1": "v1",
    "v2": "v2",
    "model": "model",
    "explain": "explain",
    "metrics": "metrics",
    "livez": "probe",
    "readyz": "probe",
    "healthz": "probe",
    "openapi.json": "openapi",
    "docs.json": "openapi",
    "schema.json": "openapi",
    "static_content": "page",
}
"""By the first part of the path."""

OTHER = "other"

LONGEST_PATH = 200
"""Characters of a path that are kept in a log line or a trace."""

UNTRACED = frozenset({"metrics", "probe", "page"})
"""Asked for every few seconds by machines, or files: a trace of each would only hide the others."""


def face_of(path: str) -> str:
    """Name the part of the service that a path belongs to."""
    return FACES.get(path[1:].partition("/")[0], OTHER)
