"""The tables of docs/benchmarks.md about serving."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any

from benchmarks.records import Row

_FASTAPI = "fastapi-onnx"


def tables(rows: list[Row]) -> str:
    """Write the last outcome of each architecture."""
    return "\n\n".join(_section(row) for row in {row["arch"]: row for row in rows}.values())


def _section(row: Row) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in row["versions"].items())
    ceilings = row["measured"]["ceiling"]
    setting, rates = _best([rates for group in ceilings.values() for rates in group], max)
    _, alone = _best(row["measured"]["alone"], min)
    tried = " and ".join(map(_ceiling, row["settings"]["ceiling"]))
    return "\n".join(
        [
            f"### {row['arch']}",
            "",
            f"{row['machine']}; {versions}. Medians of {_count(row['rounds'], 'round')} of "
            f"{row['seconds']:g} s; {row['images']} images of {row['image_bytes'] / 1000:.0f} kB "
            "on average.",
            "",
            f"Without HTTP: {median(rates):.1f} images/s, with {_ceiling(setting)}, the better "
            f"of {tried}; one image alone takes {median(alone):.1f} ms.",
            *_own(row, setting),
            "",
            "| server | clients | answers/s | of the rate without HTTP | times FastAPI, "
            "ONNX Runtime | times the best with torch eager | p50, ms | p99, ms | p99 / p50 "
            "| p50 / alone | not right |",
            "| --- " + "| --: " * 10 + "|",
            *_speeds(row, setting, alone),
            "",
            "| server | setting | from start to first answer, s | memory after a load, MB |",
            "| --- | --- | --: | --: |",
            *_starts(row),
            "",
            _generator(row),
            "",
            _others(row),
        ]
    )


def _best(rounds: list[dict[str, float]], better: Callable[..., str]) -> tuple[str, list[float]]:
    """Choose a setting by the median of its rounds.

    The better of each round would be that of two, plus the luck of the round: with two that are
    equal and vary by 5 %, 3 % more than either.
    """
    values = {name: [found[name] for found in rounds] for name in rounds[0]}
    name = better(values, key=lambda name: median(values[name]))
    return name, values[name]


def _speeds(row: Row, setting: str, alone: list[float]) -> list[str]:
    lines = []
    for clients in map(str, row["clients"]):
        ceilings = [rates[setting] for rates in row["measured"]["ceiling"][clients]]
        rates = {
            name: [report["per_second"] for report in row["measured"][name][clients]]
            for name in row["titles"]
        }
        eager = max(row["eager"], key=lambda name: median(rates[name]), default="")
        for name in sorted(rates, key=lambda name: -median(rates[name])):
            reports = row["measured"][name][clients]
            p50 = [report["latency"].get("p50", 0.0) for report in reports]
            p99 = [report["latency"].get("p99", 0.0) for report in reports]
            cells = [
                row["titles"][name],
                clients,
                f"{median(rates[name]):.1f}",
                _ratio(rates[name], ceilings),
                _ratio(rates[name], rates.get(_FASTAPI)),
                _ratio(rates[name], rates.get(eager)),
                f"{median(p50):.1f}",
                f"{median(p99):.1f}",
                _ratio(p99, p50),
                _ratio(p50, alone) if clients == "1" else "",
                str(sum(_not_right(report) for report in reports)),
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return lines


def _ratio(values: list[float], others: list[float] | None) -> str:
    """Give the median of the rounds' ratios: what was slow in a round was so for both."""
    if not others or not all(others):
        return ""
    return f"**{median(v / o for v, o in zip(values, others, strict=True)):.2f}**"


def _not_right(report: dict[str, Any]) -> int:
    found: int = report["refused"]["count"] + report["wrong"] + sum(report["errors"].values())
    return found


def _own(row: Row, setting: str) -> list[str]:
    """Tell how fast the work is without HTTP with the file that tlserve alone runs."""
    own = row["measured"].get("own")
    if own is None:
        return []
    chosen, rates = _best([rates for group in own.values() for rates in group], max)
    ceilings = [r[setting] for group in row["measured"]["ceiling"].values() for r in group]
    shares = [
        f"{_ratio([report['per_second'] for report in reports], [r[chosen] for r in own[clients]])}"
        f" ({_count(int(clients), 'client')})"
        for clients, reports in row["measured"]["tlserve"].items()
    ]
    return [
        f"With the file of {row['arch'].partition(', ')[2]}, without HTTP: {median(rates):.1f} "
        f"images/s, {_ratio(rates, ceilings)} times that; of it, `tlserve serve` answers "
        f"{', '.join(shares)}."
    ]


def _starts(row: Row) -> list[str]:
    lines = []
    for name, found in row["starts"].items():
        seconds = median(start["ready_seconds"] for start in found)
        megabytes = median(start["pss"] for start in found) / 1e6
        cells = [row["titles"][name], row["settings"][name], f"{seconds:.2f}", f"{megabytes:.0f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _generator(row: Row) -> str:
    parts = []
    for clients, most in row["generator"].items():
        reports = [r for name in row["titles"] for r in row["measured"][name][clients]]
        best = max(report["per_second"] for report in reports)
        share = max(report["cpu_share"] for report in reports)
        parts.append(
            f"{_count(int(clients), 'client')}: {most['per_second']:.0f}/s from the echo server, "
            f"{most['per_second'] / best:.1f} times the most of any server, and at most "
            f"{100 * share:.1f}% of a core"
        )
    return "The load generator, " + "; ".join(parts) + "."


def _others(row: Row) -> str:
    found = row["measured"]["others"] + [
        report["others"]
        for name in row["titles"]
        for reports in row["measured"][name].values()
        for report in reports
    ]
    return (
        f"Other processes of the machine had {median(found):.2f} cores in the median of the "
        f"measurements, {max(found):.2f} at most."
    )


def _ceiling(setting: str) -> str:
    intra_op, workers, batch = map(int, setting.split(","))
    return (
        f"{_count(workers, 'thread')} with batches of {batch}, ONNX Runtime with "
        f"{_count(intra_op, 'thread')}"
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
