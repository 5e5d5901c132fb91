"""What is refused before the application sees it: counted, and written without it."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import Counter
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from service.faces.problems import Problem

_REFUSED = Counter(
    "tlserve_refused",
    "Requests and connections that did not get to the application, by the problem's name.",
    ["reason"],
)


def count(problem: Problem) -> None:
    """Note that something was refused."""
    _REFUSED.labels(problem.kind.name).inc()


def as_bytes(problem: Problem, default_headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Write a whole HTTP answer, the last one of its connection."""
    response = problem.response()
    headers = [*default_headers, *response.raw_headers, (b"connection", b"close")]
    lines = [name + b": " + value + b"\r\n" for name, value in headers]
    return b"".join([STATUS_LINE[response.status_code], *lines, b"\r\n", bytes(response.body)])
