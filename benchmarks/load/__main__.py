"""The process that generates load: a plan comes in, a report goes out, both JSON."""

from __future__ import annotations

import gc
import sys

from benchmarks.load.loops import run
from benchmarks.load.plan import Plan
from benchmarks.load.requests import prepared


def _main() -> None:
    plan = Plan.from_json(sys.stdin.read())
    requests = prepared(plan)
    # Nothing here makes cycles: a collection would only be a pause.
    gc.disable()
    print(run(plan, requests).to_json())


if __name__ == "__main__":
    _main()
