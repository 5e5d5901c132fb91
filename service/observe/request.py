"""The request that is being answered: what its log lines, its headers and its trace share."""

from __future__ import annotations

import random
import re
import time
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from service.inference.timing import Timing

_SANE = re.compile(rb"[A-Za-z0-9._~+/=:@-]{1,128}")
"""Nothing that would need quotes in a header, a log line or a shell."""

_RANDOM = random.Random()  # noqa: S311 - seeded by the kernel, in each process


@dataclass(slots=True)
class Request:
    """One HTTP request.

    Attributes:
        id: The client's, or one that was made.
        started: By ``time.perf_counter``.
        timing: Of its image, the slowest if it brought several; ``None`` without an answer.
        timed_at: When that was known, in nanoseconds since 1970.
        trace_id: As a trace shows it; empty without one.
    """

    id: str
    started: float = field(default_factory=time.perf_counter)
    timing: Timing | None = None
    timed_at: int = 0
    trace_id: str = ""


current: ContextVar[Request | None] = ContextVar("tlserve_request", default=None)


def request_id() -> str:
    """Give the id of the request that this code runs for; empty outside of one."""
    request = current.get()
    return request.id if request is not None else ""


def chosen_id(header: bytes | None) -> str:
    """Take the client's id if it is one that can be repeated anywhere, else make one."""
    if header is not None and _SANE.fullmatch(header):
        return header.decode("ascii")
    # A new id for a log, not a secret: asking the kernel lets other threads have the interpreter.
    return f"{_RANDOM.getrandbits(128):032x}"


def note_timing(timing: Timing) -> None:
    """Keep where the time of an image went, for the header and the trace of its request."""
    request = current.get()
    if request is None:
        return
    if request.timing is None or request.timing.total < timing.total:
        request.timing, request.timed_at = timing, time.time_ns()
