"""What came back: checked, counted and summed up."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from benchmarks.load.answers import FORMS
from benchmarks.load.plan import Plan

_REFUSED = (429, 503)


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


@dataclass
class Tally:
    """Counts answers.

    Attributes:
        counting: Whether what comes now is counted.
        window: Closed loop: from when until when is measured. A request that lies across an end
            counts as far as it lies within: else a server that answers 32 at once would seem
            faster or slower by that many.
        inside: How many right answers that is.
    """

    plan: Plan
    counting: bool = False
    window: tuple[float, float] | None = None
    inside: float = 0.0
    asked: int = 0
    wrong: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    right_ms: list[float] = field(default_factory=list)
    refused_ms: list[float] = field(default_factory=list)
    late_ms: list[float] = field(default_factory=list)

    def answered(self, image: int, status: int, body: bytes, due: float, now: float) -> None:
        """Note an answer to a request that was due then, and came now."""
        inside = self._inside(due, now)
        right = status == 200 and self._is_right(image, body)
        if right:
            self.inside += inside
        if not self.counting:
            return
        seconds = now - due
        if right:
            self.right_ms.append(seconds * 1000)
        elif status == 200:
            self.wrong += 1
        elif status in _REFUSED:
            self.refused_ms.append(seconds * 1000)
        else:
            self.errors[str(status)] += 1

    def failed(self, reason: str) -> None:
        """Note a request without an answer."""
        if self.counting:
            self.errors[reason] += 1

    @property
    def ended(self) -> int:
        """How many requests had an end, good or bad."""
        failed = self.wrong + sum(self.errors.values())
        return len(self.right_ms) + len(self.refused_ms) + failed

    def report(self, seconds: float, cpu_seconds: float, in_time: float | None = None) -> Report:
        """Sum up.

        Args:
            seconds: How long was measured.
            cpu_seconds: Of this process in that time.
            in_time: How many right answers belong to it, if not all that were counted.
        """
        in_time = len(self.right_ms) if in_time is None else in_time
        return Report(
            seconds=round(seconds, 3),
            asked=self.asked,
            answers=len(self.right_ms),
            per_second=round(in_time / seconds, 2),
            latency=_summary(self.right_ms),
            refused={"count": len(self.refused_ms), **_summary(self.refused_ms)},
            errors=dict(self.errors),
            wrong=self.wrong,
            late=_summary(self.late_ms),
            cpu_seconds=round(cpu_seconds, 3),
            cpu_share=round(cpu_seconds / seconds, 4),
        )

    def _inside(self, due: float, now: float) -> float:
        if self.window is None or now <= due:
            return 0.0
        begin, end = self.window
        return max(0.0, min(now, end) - max(due, begin)) / (now - due)

    def _is_right(self, image: int, body: bytes) -> bool:
        label, probability = self.plan.expected[image]
        try:
            found, its_probability = FORMS[self.plan.form](json.loads(body))
            near = abs(its_probability - probability) <= self.plan.tolerance
        except (ValueError, KeyError, TypeError, IndexError):
            return False
        # At one half, a difference within the tolerance changes the class.
        even = abs(probability - 0.5) <= self.plan.tolerance
        return near and (found == label or even)


def _summary(values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {}
    ordered = sorted(values)
    shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
    return {n: round(ordered[math.ceil(s * len(ordered)) - 1], 3) for n, s in shares.items()}
