"""How much load can be made: the generator against a server that does nearly nothing."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

from benchmarks.load.echo import ANSWER
from benchmarks.load.plan import Plan
from benchmarks.load.run import drive
from benchmarks.records import Row
from benchmarks.servers import running


def most(files: list[Path], clients: list[int], seconds: float) -> dict[str, Row]:
    """Measure the answers a second of the echo server, by the number of clients."""
    plan = Plan(
        port=0,
        path="/",
        field=None,
        form="flat",
        files=[str(file) for file in files],
        expected=[ANSWER] * len(files),
    )
    content = vars(plan) | {"seconds": seconds}
    with running([sys.executable, "-m", "benchmarks.load.echo", "{port}"], {}, plan) as server:
        content |= {"port": server.port}
        return {str(n): asdict(drive(Plan(**content | {"clients": n}))) for n in clients}
