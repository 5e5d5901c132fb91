"""Whether a service that answers for long holds on to more and more memory.

    python -m benchmarks.soak [--requests 100000] [--clients 8] [--serve-args …]

The memory of its processes is looked at after each part, when nothing is being asked. Results are
added to benchmarks/results/soak.jsonl, and docs/benchmarks.md is written from the last.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import tempfile
from dataclasses import asdict
from pathlib import Path
from statistics import median

from benchmarks.load.run import drive
from benchmarks.options import add_serving_options
from benchmarks.records import Row, add_rows, read_rows, replace_section
from benchmarks.servers import end_in_order, running
from benchmarks.serving_bundles import (
    ARCHITECTURES,
    ROOT,
    Questions,
    questions,
    questions_to,
)
from benchmarks.serving_subjects import tlserve

RESULTS = ROOT / "benchmarks" / "results" / "soak.jsonl"
PAGE = ROOT / "docs" / "benchmarks.md"
_PART = 5000


def main() -> None:
    options = _parse()
    end_in_order()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.bundles or Path(temporary)
        if options.bundle:
            asked = questions_to(options.bundle.resolve(), options.data)
        else:
            asked = questions(options.arch, options.data, options.weights, folder)
        add_rows(RESULTS, [_measured(asked, options)])
    text = _text(read_rows(RESULTS)[-1])
    replace_section(PAGE, "soak", text)
    print(text)


def _measured(asked: Questions, options: argparse.Namespace) -> Row:
    subject = tlserve(asked.bundle, shlex.split(options.serve_args))
    (variant,) = subject.variants
    looks: list[Row] = []
    with running(variant.command, variant.environment, subject.plan(0, asked)) as server:
        done = 0
        looks.append({"requests": done} | asdict(server.memory()))
        while done < options.requests:
            number = min(options.part, options.requests - done)
            # Without a warm-up: each request is one of those that are counted, but for those on
            # the way when the number is reached, fewer than there are clients.
            report = drive(
                subject.plan(
                    *(server.port, asked),
                    clients=options.clients,
                    requests=number,
                    warm_up=0,
                    seed=done,
                )
            )
            done += number
            good = {"per_second": report.per_second, "p99_ms": report.latency.get("p99", 0.0)}
            bad = {"wrong": report.wrong, "refused": report.refused["count"]}
            errors = {"errors": report.errors}
            looks.append({"requests": done} | asdict(server.memory()) | good | bad | errors)
            print(looks[-1], flush=True)
    return {
        "arch": options.bundle.name if options.bundle else options.arch,
        "machine": f"{platform.machine()}, {os.cpu_count()} CPU cores",
        "serve_args": options.serve_args,
        "clients": options.clients,
        "looks": looks,
    }


def _text(row: Row) -> str:
    begin, first, *_ = looks = row["looks"]
    last = looks[-1]
    grown = (last["rss"] - first["rss"]) / 1e6
    wrong = sum(look["wrong"] + look["refused"] for look in looks[1:])
    errors = sum(sum(look["errors"].values()) for look in looks[1:])
    rate = median(look["per_second"] for look in looks[1:])
    return (
        f"{row['arch']}, {row['machine']}: {last['requests']:,} requests of {row['clients']} "
        f"clients, {rate:.1f}/s, {wrong + errors} of them not answered right. Resident memory of "
        f"the {last['processes']} processes: {begin['rss'] / 1e6:.0f} MB after the first answer, "
        f"{first['rss'] / 1e6:.0f} MB after {first['requests']:,} requests, "
        f"**{last['rss'] / 1e6:.0f} MB** at the end: {grown:+.1f} MB, "
        f"{100 * grown * 1e6 / first['rss']:+.1f}%."
    )


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--arch", choices=ARCHITECTURES, default="mobilenet_v2")
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--part", type=int, default=_PART, help="requests between two looks")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--bundle", type=Path, help="instead of --arch: one that there is")
    add_serving_options(parser)
    return parser.parse_args()


if __name__ == "__main__":
    main()
