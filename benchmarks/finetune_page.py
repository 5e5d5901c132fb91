"""The tables that ``benchmarks/finetune.py`` writes into ``docs/benchmarks.md``."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from benchmarks.finetune_cases import FULL_EPOCHS, GROWTH, HEAD_EPOCHS
from benchmarks.records import Row

Runs = Mapping[str, Sequence[Row]]
"""The rows of each name, but for those of the round that looked at memory."""

Memory = Mapping[str, Row]
"""Of each name, the row of the round that looked at memory."""

_GOALS = {"cold-10": 5, "cold-30": 10, "warm-10": 50, "warm-30": 50}
_FULL_GOAL = 1.3
_MOST_GROWTH = 0.15

_LABELS = {
    "tutorial": "the tutorial's loop",
    "cold": "`tlserve`, nothing kept yet",
    "warm": "`tlserve`, another `--lr` afterwards",
    "tlserve": "`tlserve`",
}


def tables(rows: Sequence[Row]) -> str:
    """Write what was measured; a table for which nothing was is left out."""
    memory = {row["name"]: row for row in rows if row["round"] == "memory"}
    # The pilots only chose how the tutorial's images are loaded; they have rounds of their own.
    counted = [row for row in rows if not row["name"].startswith("pilot")]
    timed = [row for row in counted if row["round"] != "memory"]
    runs = {name: [r for r in timed if r["name"] == name] for name in {r["name"] for r in timed}}
    parts = [_circumstances(timed)] if timed else ["*Not measured yet.*"]
    if any(f"{side}-{epochs}" in runs for side in _LABELS for epochs in HEAD_EPOCHS):
        parts += ["### Head only", _head(runs, memory), _accuracy(runs)]
    if "tlserve-full" in runs or "tutorial-full" in runs:
        parts += ["### All blocks", _full(runs, memory)]
    if any(f"linear-{times}" in runs for times in GROWTH):
        parts += ["### More images", _linear(runs, memory)]
    return "\n\n".join(part for part in parts if part)


def _circumstances(rows: Sequence[Row]) -> str:
    machines = sorted({f"{row['machine']}, on {row['device']}" for row in rows})
    versions = sorted({", ".join(f"{k} {v}" for k, v in row["versions"].items()) for row in rows})
    rounds = max(row["round"] for row in rows) + 1
    workers = sorted({row["workers"] for row in rows if row["name"].startswith("tutorial")})
    loading = f" {' or '.join(map(str, workers))} processes load the tutorial's images."
    return (
        f"{'; '.join(machines)}; {'; or '.join(versions)}. Medians of {rounds} "
        f"round{'s' * (rounds > 1)}, in brackets the least and the most.{loading * bool(workers)}"
    )


def _head(runs: Runs, memory: Memory) -> str:
    lines = []
    for epochs in HEAD_EPOCHS:
        peer = runs.get(f"tutorial-{epochs}", ())
        for side in ("tutorial", "cold", "warm"):
            name = f"{side}-{epochs}"
            if mine := runs.get(name, ()):
                goal = f"≥ {_GOALS[name]}" if name in _GOALS else ""
                lines.append(
                    [
                        f"{_LABELS[side]}, {epochs} epochs",
                        _right(mine),
                        *_times(mine, peer, "train_seconds"),
                        goal,
                        *_times(mine, peer, "seconds"),
                        *_megabytes(memory, name),
                    ]
                )
    header = "right, by round | training, s | times as fast | goal | whole process, s | "
    return _table(f" | {header}times as fast | {_MEMORY}", lines)


def _accuracy(runs: Runs) -> str:
    """Say in which rounds `tlserve` had more than one image fewer right than the tutorial."""
    pairs = [
        (name, mine, peer)
        for name in _GOALS
        for mine in runs.get(name, ())
        for peer in runs.get(f"tutorial-{name.partition('-')[2]}", ())
        if mine["round"] == peer["round"]
    ]
    if not pairs:
        return ""
    worse = [
        f"{name} in round {mine['round']} ({mine['correct']} to {peer['correct']})"
        for name, mine, peer in pairs
        if mine["correct"] < peer["correct"] - 1
    ]
    rule = "`tlserve` has at least as many right as the tutorial's loop in the same round, less one"
    if worse:
        return f"{rule}, in {len(pairs) - len(worse)} of {len(pairs)} runs; not {', '.join(worse)}."
    return f"{rule}, in all of {len(pairs)} runs."


def _full(runs: Runs, memory: Memory) -> str:
    peer = runs.get("tutorial-full", ())
    lines = []
    for side in ("tutorial", "tlserve"):
        name = f"{side}-full"
        if mine := runs.get(name, ()):
            images = mine[0]["train_images"] * mine[0]["epochs"]
            speed = images / _median(mine, "train_seconds")
            ours = side == "tlserve"
            lines.append(
                [
                    f"{_LABELS[side]}, {FULL_EPOCHS} epochs",
                    _right(mine),
                    f"{speed:.1f}",
                    *_times(mine, peer, "train_seconds"),
                    f"≥ 1.0, hoped for {_FULL_GOAL}" if ours else "",
                    *_times(mine, peer, "seconds"),
                    *_megabytes(memory, name),
                ]
            )
    header = "right, by round | images/s | training, s | times as fast | goal | whole process, s | "
    return _table(f" | {header}times as fast | {_MEMORY}", lines)


def _linear(runs: Runs, memory: Memory) -> str:
    names = [f"linear-{times}" for times in GROWTH if f"linear-{times}" in runs]
    found = [runs[name] for name in names]
    each = {key: [_per_image(mine, key) for mine in found] for key in ("train_seconds", "seconds")}
    lines = [
        [
            f"{mine[0]['train_images']}",
            _span(mine, "train_seconds"),
            f"{training * 1e3:.1f}",
            _span(mine, "seconds"),
            f"{whole * 1e3:.1f}",
            *_megabytes(memory, name),
        ]
        for name, mine, training, whole in zip(names, found, *each.values(), strict=True)
    ]
    header = "training, s | an image, ms | whole process, s | an image, ms | "
    table = _table(f"images | {header}{_MEMORY}", lines)
    if len(found) == 1:
        return table
    training, whole = (max(times) / min(times) - 1 for times in each.values())
    text = (
        f"{table}\n\nBetween the sizes, the time of an image differs by {training:.0%} in training "
        f"(goal: at most {_MOST_GROWTH:.0%}) and by {whole:.0%} in the whole process, whose start "
        f"takes as long whatever the size."
    )
    fewest, most = (memory.get(names[position]) for position in (0, -1))
    if fewest is None or most is None:
        return text
    grown = [f"{(most[key] - fewest[key]) / 1e6:.0f} MB" for key in _BYTES]
    return (
        f"{text} From the fewest to the most images, the peak memory grows by {grown[0]}, and by "
        f"{grown[1]} without pages of files."
    )


_BYTES = ("peak_bytes", "private_bytes")
_MEMORY = "peak memory, MB | without pages of files, MB"


def _megabytes(memory: Memory, name: str) -> list[str]:
    return [f"{memory[name][key] / 1e6:.0f}" if name in memory else "" for key in _BYTES]


def _times(mine: Sequence[Row], peer: Sequence[Row], key: str) -> list[str]:
    """Give the seconds, and how many times shorter they are than the other side's."""
    if not peer or mine is peer:
        return [_span(mine, key), ""]
    return [_span(mine, key), f"**{_median(peer, key) / _median(mine, key):.3g}**"]


def _span(mine: Sequence[Row], key: str) -> str:
    values = [row[key] for row in mine]
    places = 1 if min(values) >= 10 else 2
    if len(values) == 1:
        return f"{values[0]:.{places}f}"
    return f"{_median(mine, key):.{places}f} ({min(values):.{places}f} to {max(values):.{places}f})"


def _right(mine: Sequence[Row]) -> str:
    ordered = sorted(mine, key=lambda row: int(row["round"]))
    return f"{', '.join(str(row['correct']) for row in ordered)} of {mine[0]['val_images']}"


def _per_image(mine: Sequence[Row], key: str) -> float:
    return _median(mine, key) / float(mine[0]["train_images"])


def _median(mine: Sequence[Row], key: str) -> float:
    return float(statistics.median(row[key] for row in mine))


def _table(header: str, lines: Sequence[Sequence[str]]) -> str:
    names = header.split(" | ")
    rule = ["---", *["--:"] * (len(names) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (names, rule, *lines))
