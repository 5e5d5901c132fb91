"""A service that is asked for three times as much as it can answer: what it does, how it says no.

    python -m benchmarks.overload [--seconds 60] [--times 3] [--serve-args "--max-queue 64"]

The most that a closed loop gets is measured before and after. In between, requests come at random
times, at three times that rate, whether or not there are answers. Results are added to
benchmarks/results/overload.jsonl, and docs/benchmarks.md is written from the last.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from benchmarks.load.run import begin, drive, end
from benchmarks.load.tally import Report
from benchmarks.records import Row, add_rows, read_rows, replace_section
from benchmarks.servers import Server, end_in_order, running
from benchmarks.serving_bundles import (
    ARCHITECTURES,
    DATA,
    ROOT,
    WEIGHTS,
    Questions,
    questions,
)
from benchmarks.serving_subjects import tlserve
from benchmarks.serving_trial import check

RESULTS = ROOT / "benchmarks" / "results" / "overload.jsonl"
PAGE = ROOT / "docs" / "benchmarks.md"
_LOOK_SECONDS = 5.0
_GOAL_MS = 50


def main() -> None:
    options = _parse()
    end_in_order()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.bundles or Path(temporary)
        asked = questions(options.arch, options.data, options.weights, folder)
        add_rows(RESULTS, [_measured(asked, options)])
    text = _text(read_rows(RESULTS)[-1])
    replace_section(PAGE, "overload", text)
    print(text)


def _measured(asked: Questions, options: argparse.Namespace) -> Row:
    subject = tlserve(asked.bundle, shlex.split(options.serve_args))
    (variant,) = subject.variants
    probe = subject.plan(0, asked)
    with running(variant.command, variant.environment, probe) as server:

        def peak() -> Report:
            plan = subject.plan(
                server.port, asked, clients=options.clients, seconds=options.peak_seconds
            )
            report = drive(plan)
            check(report, subject.name)
            return report

        before = peak()
        rate = options.times * before.per_second
        # The warm-up fills the queue: what is measured is a service that is overloaded already.
        plan = subject.plan(
            server.port, asked, rate=rate, seconds=options.seconds, warm_up=options.warm_up
        )
        process = begin(plan)
        memory = _watched(server, options.warm_up + options.seconds)
        overloaded = end(process)
        after = peak()
    return {
        "arch": options.arch,
        "machine": f"{platform.machine()}, {os.cpu_count()} CPU cores",
        "serve_args": options.serve_args,
        "times": options.times,
        "clients": options.clients,
        "before": asdict(before),
        "overloaded": asdict(overloaded),
        "after": asdict(after),
        "memory": memory,
    }


def _watched(server: Server, seconds: float) -> list[Row]:
    """Look at the memory of a server now and then."""
    started = time.perf_counter()
    found = []
    while (passed := time.perf_counter() - started) < seconds:
        found.append({"second": round(passed, 1)} | asdict(server.memory()))
        time.sleep(min(_LOOK_SECONDS, max(0.0, seconds - passed)))
    return found


def _text(row: Row) -> str:
    before, report, after = (Report(**row[name]) for name in ("before", "overloaded", "after"))
    accepted, refused = report.latency, report.refused
    sizes = [look["pss"] / 1e6 for look in row["memory"]]
    errors = ", ".join(f"{n} of {name}" for name, n in report.errors.items()) or "none"
    rows = [
        ("requests a second", f"{report.asked / report.seconds:.0f}", ""),
        ("right answers a second", f"{report.per_second:.1f}", ""),
        ("of the most before", f"**{report.per_second / before.per_second:.2f}**", ""),
        ("most afterwards, of that before", f"{after.per_second / before.per_second:.2f}", ""),
        ("answers, p50", f"{accepted.get('p50', 0):.0f} ms", ""),
        ("answers, p99", f"{accepted.get('p99', 0):.0f} ms", ""),
        ("refused (503)", f"{refused['count']} of {report.asked}", ""),
        ("refusals, p50", f"**{refused.get('p50', 0):.1f} ms**", f"≤ {_GOAL_MS} ms"),
        ("refusals, p99", f"**{refused.get('p99', 0):.1f} ms**", f"≤ {_GOAL_MS} ms"),
        ("wrong answers", str(report.wrong), "0"),
        ("errors", errors, "none"),
        ("memory, first to last", f"{sizes[0]:.0f} to {sizes[-1]:.0f} MB", ""),
        ("memory, most", f"{max(sizes):.0f} MB", ""),
        ("load generator", f"{100 * report.cpu_share:.0f}% of a core", ""),
        ("load generator late, p99", f"{report.late.get('p99', 0):.1f} ms", ""),
    ]
    arguments = f"`{row['serve_args']}`" if row["serve_args"] else "the default settings"
    return "\n".join(
        [
            f"{row['arch']}, {row['machine']}, {arguments}. {report.seconds:g} s at "
            f"{row['times']:g} times the {before.per_second:.1f} answers/s that {row['clients']} "
            "clients get.",
            "",
            "|  | found | goal |",
            "| --- | --: | --: |",
            *(f"| {name} | {found} | {goal} |" for name, found, goal in rows),
        ]
    )


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--arch", choices=ARCHITECTURES, default="mobilenet_v2")
    parser.add_argument("--times", type=float, default=3.0, help="of the most that it can answer")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--warm-up", type=float, default=5.0, help="of the overload, in seconds")
    parser.add_argument("--clients", type=int, default=32, help="of the closed loop")
    parser.add_argument("--peak-seconds", type=float, default=10.0, help="of the closed loop")
    parser.add_argument("--serve-args", default="", help="further arguments of `tlserve serve`")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--bundles", type=Path, help="where bundles are kept for the next time")
    return parser.parse_args()


if __name__ == "__main__":
    main()
