"""Which settings of a server, and of the work without one, are the fastest: short trials."""

from __future__ import annotations

from math import sqrt
from pathlib import Path
from statistics import median

from benchmarks.load.run import drive
from benchmarks.load.tally import Report
from benchmarks.servers import running
from benchmarks.serving_bundles import Questions
from benchmarks.serving_ceiling import TRIED, ask
from benchmarks.serving_subjects import Subject, Variant

_CLIENTS = (8, 32)
_ROUNDS = 3
_KEPT = 2


def check(report: Report, name: str) -> None:
    """Exit if answers are not right: a fast wrong answer is worth nothing.

    Raises:
        SystemExit: Some were wrong, or did not come.
    """
    if report.wrong or report.errors:
        raise SystemExit(
            f"{name}: {report.answers} right answers, {report.wrong} wrong, errors {report.errors}."
        )


def fastest(
    subject: Subject, questions: Questions, seconds: float
) -> tuple[Variant, dict[str, float]]:
    """Try the ways to start a server.

    Returns:
        The fastest, and of each the geometric mean of the answers a second of 8 and 32 clients.
        Without seconds for a trial, the first.
    """
    if len(subject.variants) == 1 or not seconds:
        return subject.variants[0], {}
    found = {}
    for variant in subject.variants:
        probe = subject.plan(0, questions)
        with running(variant.command, variant.environment, probe) as server:
            rates = []
            for clients in _CLIENTS:
                plan = subject.plan(server.port, questions, clients=clients, seconds=seconds)
                report = drive(plan)
                check(report, f"{subject.name}, {variant.label}")
                rates.append(report.per_second)
        found[variant.label] = round(sqrt(rates[0] * rates[1]), 2)
        print(f"trial  {subject.name}, {variant.label}: {found[variant.label]:.1f}/s", flush=True)
    best = max(subject.variants, key=lambda v: found[v.label])
    return best, found


def best_ceilings(bundle: Path, data: Path, seconds: float) -> tuple[list[str], dict[str, float]]:
    """Try threads and batches without HTTP.

    Returns:
        The two fastest settings, and the median of the images a second of each. Without seconds
        for a trial, the first two.
    """
    if not seconds:
        return list(TRIED[:_KEPT]), {}
    rates: dict[str, list[float]] = {setting: [] for setting in TRIED}
    for number in range(_ROUNDS):
        order = TRIED[number * 2 :] + TRIED[: number * 2]
        found = ask(bundle, data, f"--seconds={seconds}", "--settings", *order)
        for setting, rate in found.items():
            rates[setting].append(rate)
    medians = {setting: median(found) for setting, found in rates.items()}
    for setting, rate in medians.items():
        print(f"trial  ceiling {setting}: {rate:.1f}/s", flush=True)
    return sorted(medians, key=medians.__getitem__, reverse=True)[:_KEPT], medians
