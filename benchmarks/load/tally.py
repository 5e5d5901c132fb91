"""What came back: checked, counted and summed up."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from http import HTTPStatus

from benchmarks.load.answers import FORMS
from benchmarks.load.plan import Plan

_REFUSED = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)


@dataclass
class Report:
    """What a load found.

    Attributes:
        seconds: How long was measured.
        asked: Requests that were due in that time.
        answers: Right answers.
        per_second: The same a second. In a closed loop, requests that lie across the begin or the
            end count as far as they lie within; in an open one, what came after the end does not.
        latency: Milliseconds of the right answers; in an open loop from when each was due.
        refused: Answers 429 and 503, and the milliseconds that they took.
        errors: Other answers than 200, and connections that failed, each with its number.
        wrong: Answers 200 with another class, or another probability.
        late: Open loop: milliseconds from when requests were due until they were begun; a part of
            the latencies that is the fault of the load generator, or a lack of connections.
        cpu_seconds: Of the load generator.
        cpu_share: The same of one core.
    """

    seconds: float
    asked: int
    answers: int
    per_second: float
    latency: dict[str, float]
    refused: dict[str, float]
    errors: dict[str, int]
    wrong: int
    late: dict[str, float]
    cpu_seconds: float
    cpu_share: float

    def to_json(self) -> str:
        """Write it down."""
        return json.dumps(asdict(self))


@dataclass(slots=True)
class _Came:
    image: int
    status: int
    body: bytes
    due: float
    now: float
    counted: bool


@dataclass
class Tally:
    """Keeps answers, and checks them when all is over: meanwhile the server needs the processors.

    Attributes:
        counting: Whether what comes now is counted.
        window: Closed loop: from when until when is measured. A request that lies across an end
            counts as far as it lies within: else a server that answers 32 at once would seem
            faster or slower by that many.
        ended: How many requests had an end, good or bad, while it was counted.
    """

    plan: Plan
    counting: bool = False
    window: tuple[float, float] | None = None
    asked: int = 0
    ended: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    late_ms: list[float] = field(default_factory=list)
    _came: list[_Came] = field(default_factory=list)

    def answered(self, image: int, status: int, body: bytes, due: float, now: float) -> None:
        """Note an answer to a request that was due then, and came now."""
        if self.counting or self.window is not None:
            self._came.append(_Came(image, status, body, due, now, self.counting))
            self.ended += self.counting

    def failed(self, reason: str) -> None:
        """Note a request without an answer."""
        if self.counting:
            self.errors[reason] += 1
            self.ended += 1

    def report(self, seconds: float, cpu_seconds: float, *, until: float | None = None) -> Report:
        """Check the answers, and sum up.

        Args:
            seconds: How long was measured.
            cpu_seconds: Of this process in that time.
            until: Open loop: answers that came later do not count as answers of that time.
        """
        right = [c for c in self._came if c.status == HTTPStatus.OK and self._is_right(c)]
        counted = [c for c in self._came if c.counted]
        right_ms = [_milliseconds(c) for c in right if c.counted]
        answered = sum(c.status == HTTPStatus.OK for c in counted)
        refused_ms = [_milliseconds(c) for c in counted if c.status in _REFUSED]
        others = (c.status for c in counted if c.status not in (HTTPStatus.OK, *_REFUSED))
        errors = self.errors + Counter(str(int(status)) for status in others)
        in_time = float(len(right_ms))
        if self.window is not None:
            in_time = sum(self._inside(c.due, c.now) for c in right)
        elif until is not None:
            in_time = sum(c.counted and c.now <= until for c in right)
        return Report(
            seconds=round(seconds, 3),
            asked=self.asked,
            answers=len(right_ms),
            per_second=round(in_time / seconds, 2),
            latency=_summary(right_ms),
            refused={"count": len(refused_ms), **_summary(refused_ms)},
            errors=dict(errors),
            wrong=answered - len(right_ms),
            late=_summary(self.late_ms),
            cpu_seconds=round(cpu_seconds, 3),
            cpu_share=round(cpu_seconds / seconds, 4),
        )

    def _inside(self, due: float, now: float) -> float:
        if self.window is None or now <= due:
            return 0.0
        begin, end = self.window
        return max(0.0, min(now, end) - max(due, begin)) / (now - due)

    def _is_right(self, came: _Came) -> bool:
        label, probability = self.plan.expected[came.image]
        try:
            found, its_probability = FORMS[self.plan.form](json.loads(came.body))
            near = abs(its_probability - probability) <= self.plan.tolerance
        except (ValueError, KeyError, TypeError, IndexError):
            return False
        # At one half, a difference within the tolerance changes the class.
        even = abs(probability - 0.5) <= self.plan.tolerance
        return near and (found == label or even)


def _milliseconds(came: _Came) -> float:
    return (came.now - came.due) * 1000


def _summary(values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {}
    ordered = sorted(values)
    shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
    return {n: round(ordered[math.ceil(s * len(ordered)) - 1], 3) for n, s in shares.items()}
