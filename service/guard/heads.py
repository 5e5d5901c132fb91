"""What can be wrong with a request line and headers that were parsed."""

from __future__ import annotations

from collections.abc import Iterable

from service.faces import problems
from service.faces.problems import Problem
from service.guard.limits import HEAD_BYTES


def problem_of(url: bytes, headers: Iterable[tuple[bytes, bytes]], version: str) -> Problem | None:
    """Say what is wrong with a request; ``None``: nothing is.

    Args:
        url: As it came.
        headers: Their names in small letters.
        version: Of HTTP: a request of 1.0 needs no name of a host.
    """
    size = len(url)
    hosts = 0
    for name, value in headers:
        size += len(name) + len(value) + 4
        hosts += name == b"host"
    if size > HEAD_BYTES:
        return too_large()
    if hosts != 1 and (hosts or version != "1.0"):
        return malformed(f"It has {hosts} Host headers instead of one.")
    return None


def malformed(detail: str) -> Problem:
    """Say that a request is not valid HTTP."""
    return Problem(problems.MALFORMED_REQUEST, detail)


def too_large() -> Problem:
    """Say that there is more before the body than may be."""
    return Problem(
        problems.HEADERS_TOO_LARGE,
        f"The request line and the headers may have {HEAD_BYTES:,} bytes.",
        hint="An image goes into the body.",
    )
