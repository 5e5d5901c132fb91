"""What is refused before the application sees it: counted, and written without it."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import Counter
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from service.faces import problems
from service.faces.problems import Problem
from service.holdings import Holdings

_REFUSED = Counter(
    "tlserve_refused",
    "Requests and connections that did not get to the application, by the problem's name.",
    ["reason"],
)


def count(problem: Problem) -> None:
    """Note that something was refused."""
    _REFUSED.labels(problem.kind.name).inc()


def too_many_connections(held: Holdings, client: str) -> Problem:
    """Say that an address may have no further connection."""
    whose = f", {held.of(client)} of them from this address" if held.sharing(client) > 1 else ""
    return problems.busy(f"There are {held.total} connections already{whose}.", 1)


def as_bytes(problem: Problem, default_headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Write a whole HTTP answer, the last one of its connection."""
    response = problem.response()
    headers = [*default_headers, *response.raw_headers, (b"connection", b"close")]
    lines = [name + b": " + value + b"\r\n" for name, value in headers]
    return b"".join([STATUS_LINE[response.status_code], *lines, b"\r\n", bytes(response.body)])
