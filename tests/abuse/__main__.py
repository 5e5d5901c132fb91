"""``python -m tests.abuse``: the long form of ``test_abuse.py``."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from tests.abuse.attack import attack
from tests.abuse.good import expected_answers, held
from tests.service import bundle as bundles
from tests.service.server import running

_WARM = 500


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="the number of the first of them")
    options = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        bundle = bundles.write(Path(folder) / "insects")
        good = expected_answers(bundle)
        with running(bundle.path) as server, Progress(console=console) as progress:
            workers = [child.pid for child in server.children()]
            warm = range(options.first - _WARM, options.first)
            attack(server.url, [abs(number) for number in warm], good)
            before = held(server)
            task = progress.add_task("sending", total=options.inputs)
            started = time.perf_counter()
            outcome = attack(
                server.url,
                range(options.first, options.first + options.inputs),
                good,
                lambda count: progress.update(task, completed=count),
            )
            seconds = time.perf_counter() - started
            after = held(server)
            same = workers == [child.pid for child in server.children()]
            log = "".join(server.log)
    by_kind: dict[str, dict[int, int]] = defaultdict(dict)
    for (kind, status), count in sorted(outcome.statuses.items()):
        by_kind[kind][status] = count
    for kind, statuses in by_kind.items():
        counts = ", ".join(f"{status or 'closed'} × {n}" for status, n in statuses.items())
        console.print(f"{kind:28} {counts}", highlight=False)
    console.print(
        f"{sum(outcome.statuses.values())} wrong requests in {seconds:.0f} s, {outcome.good} good "
        f"ones answered rightly meanwhile, {len(outcome.wrong)} not: {outcome.wrong[:3]}\n"
        f"harmful: {dict(list(outcome.harmful.items())[:10])}\n"
        f"the worker is {'the same' if same else 'ANOTHER ONE'}; memory {before / 1e6:.0f} MB "
        f"after {_WARM}, {after / 1e6:.0f} MB at the end; tracebacks in the log: "
        f"{log.count('Traceback')}",
        highlight=False,
    )
    sys.exit(bool(outcome.harmful or outcome.wrong or not same))


if __name__ == "__main__":
    main()
