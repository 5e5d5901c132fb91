"""How often one client may ask: a token bucket each."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

_MOST_CLIENTS = 16_384
"""Addresses have no end, memory does: who was silent longest is forgotten."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What came of asking for a token.

    Attributes:
        wait: Seconds until there is one; 0 if it was given.
        remaining: How many are left.
        full: Seconds until the bucket is full again.
    """

    wait: float
    remaining: int
    full: float


class Buckets:
    """A token bucket for each client.

    Args:
        rate: Tokens that a bucket gets in a second.
        burst: How many fit into it; it begins full.
        clock: Gives seconds.
        most: How many clients are remembered.
    """

    def __init__(
        self,
        rate: float,
        burst: int,
        clock: Callable[[], float] = time.monotonic,
        most: int = _MOST_CLIENTS,
    ) -> None:
        self.rate = rate
        self.burst = burst
        self._clock = clock
        self._most = most
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, client: str) -> Taken:
        """Take a token from the client's bucket, if there is one."""
        now = self._clock()
        tokens, then = self._buckets.pop(client, (float(self.burst), now))
        tokens = min(self.burst, tokens + (now - then) * self.rate)
        wait = 0.0
        if tokens >= 1:
            tokens -= 1
        else:
            wait = (1 - tokens) / self.rate
        self._buckets[client] = (tokens, now)
        if len(self._buckets) > self._most:
            self._buckets.popitem(last=False)
        return Taken(wait, int(tokens), (self.burst - tokens) / self.rate)

    def headers(self, taken: Taken) -> list[tuple[bytes, bytes]]:
        """Tell a client where it stands, in the words of the IETF's draft."""
        return [
            (b"ratelimit-limit", b"%d" % self.burst),
            (b"ratelimit-remaining", b"%d" % taken.remaining),
            (b"ratelimit-reset", b"%d" % math.ceil(taken.full)),
        ]
