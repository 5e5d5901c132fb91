"""What a load generator is asked to do, as JSON between the processes."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One load.

    Attributes:
        port: Of the server on 127.0.0.1.
        path: Where the images are posted.
        field: The field of a multipart form that holds the image; ``None``: it is the whole body.
        form: Of the answers; one of :data:`benchmarks.load.answers.FORMS`.
        files: The images.
        expected: For each the most probable class, and how probable it is.
        tolerance: So far from it a probability may be.
        seconds: How long is measured.
        warm_up: Seconds of the same load before.
        clients: Closed loop: so many clients, each of which sends an image when it has its answer.
        rate: Open loop: so many requests a second at random times; 0: a closed loop.
        connections: Open loop: at most so many.
        requests: Closed loop: stop after so many answers; 0: after the seconds.
        timeout: Seconds after which a request counts as failed.
        source: The address to send from; on Linux all of 127.0.0.0/8 are this machine's.
        seed: Of the order of the images and of the random times.
    """

    port: int
    path: str
    field: str | None
    form: str
    files: list[str]
    expected: list[tuple[str, float]]
    tolerance: float = 1e-3
    seconds: float = 5.0
    warm_up: float = 1.0
    clients: int = 8
    rate: float = 0.0
    connections: int = 2000
    requests: int = 0
    timeout: float = 60.0
    source: str = "127.0.0.1"
    seed: int = 0

    def to_json(self) -> str:
        """Write it down."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read it."""
        return cls(**json.loads(text))
