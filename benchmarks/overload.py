"""A service that is asked for three times as much as it can answer: what it does, how it says no.

    python -m benchmarks.overload [--rounds 3] [--seconds 60] [--times 3] [--serve-args "…"]

The most that a closed loop gets is measured before and after each round. In between, requests come
at random times, at three times that rate, whether or not there are answers; first alone, then with
another client beside them, at an address of its own, that sends one image at a time. With --apart
the service has half of the processors, and the load generator the others. Results are added to
benchmarks/results/overload.jsonl, and docs/benchmarks.md is written from the last of each kind.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median

from benchmarks.load.run import begin, drive, end
from benchmarks.load.tally import Report
from benchmarks.options import add_serving_options
from benchmarks.records import Row, add_rows, read_rows, replace_section
from benchmarks.servers import Server, end_in_order, running
from benchmarks.serving_bundles import (
    ARCHITECTURES,
    ROOT,
    Questions,
    questions,
)
from benchmarks.serving_subjects import tlserve
from benchmarks.serving_trial import check

RESULTS = ROOT / "benchmarks" / "results" / "overload.jsonl"
PAGE = ROOT / "docs" / "benchmarks.md"
_LOOK_SECONDS = 5.0
_GOAL_MS = 50
_GOAL_KEPT = 0.95
_OTHER = "127.0.0.2"
"""The address of the other client."""


def main() -> None:
    options = _parse()
    end_in_order()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.bundles or Path(temporary)
        asked = questions(options.arch, options.data, options.weights, folder)
        add_rows(RESULTS, [_measured(asked, options)])
    # Earlier rows have no other client.
    rows = [row for row in read_rows(RESULTS) if "lone" in row]
    last = {row.get("apart", False): row for row in rows}
    text = "\n\n".join(_text(last[apart]) for apart in sorted(last))
    replace_section(PAGE, "overload", text)
    print(text)


def _measured(asked: Questions, options: argparse.Namespace) -> Row:
    subject = tlserve(asked.bundle, shlex.split(options.serve_args))
    (variant,) = subject.variants
    probe = subject.plan(0, asked)
    processors = sorted(os.sched_getaffinity(0))
    half = len(processors) // 2
    if options.apart and not half:
        sys.exit("--apart needs two processors; there is one.")
    with ExitStack() as stack:
        # Processes inherit it.
        stack.callback(os.sched_setaffinity, 0, processors)
        if options.apart:
            os.sched_setaffinity(0, processors[:half])
        server = stack.enter_context(running(variant.command, variant.environment, probe))
        if options.apart:
            os.sched_setaffinity(0, processors[half:])

        def peak() -> Report:
            plan = subject.plan(
                server.port, asked, clients=options.clients, seconds=options.peak_seconds
            )
            report = drive(plan)
            check(report, subject.name)
            return report

        def other(seconds: float, warm_up: float) -> Report:
            plan = subject.plan(server.port, asked, clients=1, seconds=seconds, warm_up=warm_up)
            return drive(replace(plan, source=_OTHER))

        lone = other(options.peak_seconds, 1.0)
        check(lone, subject.name)
        before, rounds = peak(), []
        for _ in range(options.rounds):
            # The warm-up fills the queue: what is measured is a service that is overloaded already.
            plan = subject.plan(
                server.port,
                asked,
                rate=options.times * before.per_second,
                seconds=options.seconds,
                warm_up=options.warm_up,
            )
            process = begin(plan)
            memory = _watched(server, options.warm_up + options.seconds)
            overloaded = end(process)
            process = begin(replace(plan, seconds=options.beside_seconds + options.warm_up))
            beside = other(options.beside_seconds, options.warm_up)
            end(process)
            after = peak()
            found: Row = {
                "before": asdict(before),
                "overloaded": asdict(overloaded),
                "beside": asdict(beside),
                "after": asdict(after),
                "memory": memory,
            }
            print(f"{_kept(found):.3f} of the most, {found}", flush=True)
            rounds.append(found)
            before = after
    return {
        "arch": options.arch,
        "machine": f"{platform.machine()}, {os.cpu_count()} CPU cores",
        "serve_args": options.serve_args,
        "apart": options.apart,
        "times": options.times,
        "clients": options.clients,
        "lone": asdict(lone),
        "rounds": rounds,
    }


def _watched(server: Server, seconds: float) -> list[Row]:
    """Look at the memory of a server now and then."""
    started = time.perf_counter()
    found = []
    while (passed := time.perf_counter() - started) < seconds:
        found.append({"second": round(passed, 1)} | asdict(server.memory()))
        time.sleep(min(_LOOK_SECONDS, max(0.0, seconds - passed)))
    return found


def _most(found: Row) -> float:
    """Give the answers a second of the closed loops before and after."""
    return float(found["before"]["per_second"] + found["after"]["per_second"]) / 2


def _kept(found: Row) -> float:
    """Give the share of the most that is answered under overload."""
    return float(found["overloaded"]["per_second"]) / _most(found)


def _kept_of_processors(found: Row) -> float:
    """Likewise, of what the load generator leaves of the processors: it needs more for more."""
    cores = os.cpu_count() or 1
    loops = (found["before"]["cpu_share"] + found["after"]["cpu_share"]) / 2
    left = (cores - found["overloaded"]["cpu_share"]) / (cores - loops)
    return _kept(found) / float(left)


def _text(row: Row) -> str:
    rounds: list[Row] = row["rounds"]
    kept = [_kept(found) for found in rounds]
    reports = [Report(**found["overloaded"]) for found in rounds]
    besides = [Report(**found["beside"]) for found in rounds]
    sizes = [[look["pss"] / 1e6 for look in found["memory"]] for found in rounds]
    errors = Counter[str]()
    for report in (*reports, *besides):
        errors.update(report.errors)

    def middle(value: Callable[[Report], float], of: Sequence[Report] = reports) -> float:
        return median(value(report) for report in of)

    refused = sum(report.refused["count"] for report in reports)
    asked = sum(report.asked for report in reports)
    lines = [
        ("requests a second", f"{middle(lambda r: r.asked / r.seconds):.0f}", ""),
        ("right answers a second", f"{middle(lambda r: r.per_second):.1f}", ""),
        (
            "of the most before and after",
            f"**{median(kept):.2f}** ({', '.join(f'{share:.2f}' for share in kept)})",
            f"≥ {_GOAL_KEPT}",
        ),
        ("answers, p50", f"{middle(lambda r: r.latency.get('p50', 0)):.0f} ms", ""),
        ("answers, p99", f"{middle(lambda r: r.latency.get('p99', 0)):.0f} ms", ""),
        ("refused (503)", f"{refused} of {asked}", ""),
        (
            "refusals, p50",
            f"**{middle(lambda r: r.refused.get('p50', 0)):.1f} ms**",
            f"≤ {_GOAL_MS} ms",
        ),
        (
            "refusals, p99",
            f"**{middle(lambda r: r.refused.get('p99', 0)):.1f} ms**",
            f"≤ {_GOAL_MS} ms",
        ),
        (
            "another client: answers, p50",
            f"**{middle(lambda r: r.latency.get('p50', 0), besides):.0f} ms** "
            f"(with nobody else {row['lone']['latency']['p50']:.0f} ms)",
            "",
        ),
        (
            "another client: answers, p99",
            f"{middle(lambda r: r.latency.get('p99', 0), besides):.0f} ms",
            "",
        ),
        (
            "another client: refused",
            f"**{sum(report.refused['count'] for report in besides)}** "
            f"of {sum(report.asked for report in besides)}",
            "0",
        ),
        ("wrong answers", str(sum(report.wrong for report in (*reports, *besides))), "0"),
        ("errors", ", ".join(f"{n} of {name}" for name, n in errors.items()) or "none", "none"),
        ("memory, first to last", f"{sizes[0][0]:.0f} to {sizes[-1][-1]:.0f} MB", ""),
        ("memory, most", f"{max(map(max, sizes)):.0f} MB", ""),
        ("load generator", f"{100 * middle(lambda r: r.cpu_share):.0f}% of a core", ""),
        ("load generator late, p99", f"{middle(lambda r: r.late.get('p99', 0)):.1f} ms", ""),
    ]
    where = "the load generator on the same processors"
    if row.get("apart"):
        where = "the load generator on half of the processors, the service on the others"
    else:
        share = f"{median(map(_kept_of_processors, rounds)):.2f}"
        lines.insert(3, ("likewise, of the processors that the load generator leaves", share, ""))
    arguments = f"`{row['serve_args']}`" if row["serve_args"] else "the default settings"
    return "\n".join(
        [
            f"{row['arch']}, {row['machine']}, {arguments}; {where}. {len(rounds)} rounds of "
            f"{reports[0].seconds:g} s at {row['times']:g} times the answers that "
            f"{row['clients']} clients get, {median(map(_most, rounds)):.1f}/s; medians.",
            "",
            "|  | found | goal |",
            "| --- | --: | --: |",
            *(f"| {name} | {found} | {goal} |" for name, found, goal in lines),
        ]
    )


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--arch", choices=ARCHITECTURES, default="mobilenet_v2")
    parser.add_argument("--apart", action="store_true", help="with processors of its own for each")
    parser.add_argument("--times", type=float, default=3.0, help="of the most that it can answer")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60.0, help="of each round")
    parser.add_argument("--warm-up", type=float, default=5.0, help="of the overload, in seconds")
    parser.add_argument("--clients", type=int, default=32, help="of the closed loop")
    parser.add_argument(
        "--beside-seconds", type=float, default=20.0, help="of each round with another client"
    )
    parser.add_argument("--peak-seconds", type=float, default=10.0, help="of the closed loop")
    add_serving_options(parser)
    return parser.parse_args()


if __name__ == "__main__":
    main()
