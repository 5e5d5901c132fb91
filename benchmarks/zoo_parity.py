"""Take torchvision's classifiers the whole way, and write down what came of each.

    python benchmarks/zoo_parity.py [NAME ...] [--size N] [--fresh] [--timeout SECONDS]

Each architecture runs in a process of its own, which gives its memory back, may crash and is
bounded in time. Its outcome is appended to ``results/zoo_parity.jsonl`` at once: run again, the
script goes on where it was interrupted. At its end, it writes ``docs/architectures.md``.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.architectures_page import write_page
from tlserve.zoo.architectures import architectures, check_architecture
from tlserve.zoo.presets import preset

REPOSITORY = Path(__file__).resolve().parent.parent
RESULTS = REPOSITORY / "benchmarks" / "results" / "zoo_parity.jsonl"
PAGE = REPOSITORY / "docs" / "architectures.md"

SMALLER = {"regnet_y_128gf": 224, "vit_h_14": 224}
"""Pixels. At their weights' own input size, these take two CPU cores more than a few minutes."""

Row = dict[str, Any]


def read_rows(path: Path) -> dict[str, Row]:
    """Read the outcomes by architecture; of several, the last one counts."""
    if not path.is_file():
        return {}
    rows: list[Row] = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return {row["architecture"]: row for row in rows}


def run_one(architecture: str, side: int, timeout: float) -> Row:
    """Take one architecture the whole way in another process; failing is an outcome too."""
    row: Row = {"architecture": architecture, "size": side}
    command = [sys.executable, "-m", "benchmarks.whole_way", architecture, str(side)]
    try:
        done = subprocess.run(
            command, cwd=REPOSITORY, capture_output=True, text=True, timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired:
        return row | {"result": f"not done after {timeout:.0f} s", "seconds": timeout}
    if done.returncode < 0:
        return row | {"result": f"killed by {signal.Signals(-done.returncode).name}"}
    if done.returncode > 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return row | {"result": f"crashed: {last}"}
    outcome: Row = json.loads(done.stdout.splitlines()[-1])
    return row | outcome


def main() -> None:
    options = _parse()
    for name in options.names:
        check_architecture(name)
    if options.fresh:
        RESULTS.unlink(missing_ok=True)
    RESULTS.parent.mkdir(exist_ok=True)
    # Named ones are run even if there is an outcome.
    names = options.names or [n for n in architectures() if n not in read_rows(RESULTS)]
    for number, name in enumerate(names, 1):
        side = options.size or SMALLER.get(name) or preset(name).crop[0]
        print(f"[{number}/{len(names)}] {name} at {side} px", end=" ", flush=True)
        row = run_one(name, side, options.timeout)
        print(f"{row['result']} ({row.get('seconds', '?')} s)", flush=True)
        with RESULTS.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    rows = read_rows(RESULTS)
    write_page(PAGE, [rows[name] for name in architectures() if name in rows])
    passed = sum(row["result"] == "pass" for row in rows.values())
    print(f"{passed} of {len(architectures())} pass; {PAGE.relative_to(REPOSITORY)} is written.")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="all that have no outcome yet")
    parser.add_argument("--size", type=int, help="input side in pixels, instead of the weights'")
    parser.add_argument("--fresh", action="store_true", help="forget earlier outcomes")
    parser.add_argument("--timeout", type=float, default=900, help="seconds an architecture")
    return parser.parse_args()


if __name__ == "__main__":
    main()
