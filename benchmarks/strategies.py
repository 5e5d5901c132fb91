"""Accuracy, time, trained parameters and optimiser memory of each fine-tuning strategy.

    python benchmarks/strategies.py [--data DIR] [--weights FILE] [--seeds 3] [--options …]

Each run is `tlserve finetune` in a process of its own, with the strategy's defaults; the seeds are
the outer loop, so that a slow minute of the machine does not fall on one strategy. Results are
added to benchmarks/results/strategies.jsonl, and docs/strategies.md is written from them; what is
there already is not run again unless --fresh is given.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tlserve.bundle import Bundle

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"
RESULTS = ROOT / "benchmarks" / "results" / "strategies.jsonl"
PAGE = ROOT / "docs" / "strategies.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
STRATEGIES = ("feature-extraction", "partial", "discriminative", "gradual", "full", "auto")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=SHARED / "data" / "hymenoptera")
    weights = SHARED / "weights" / "mobilenet_v2_imagenet.pth"
    parser.add_argument("--weights", type=Path, default=weights)
    parser.add_argument("--arch", default="mobilenet_v2")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--fresh", action="store_true", help="forget earlier results")
    arguments = parser.parse_args()
    if arguments.fresh:
        RESULTS.unlink(missing_ok=True)
    RESULTS.parent.mkdir(exist_ok=True)
    done = {(row["strategy"], row["seed"]) for row in _rows()}
    wanted = [(strategy, seed) for seed in range(arguments.seeds) for strategy in STRATEGIES]
    for number, (strategy, seed) in enumerate(wanted, start=1):
        if (strategy, seed) not in done:
            row = _run(arguments, strategy, seed)
            with RESULTS.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        row = next(r for r in _rows() if (r["strategy"], r["seed"]) == (strategy, seed))
        print(
            f"{number}/{len(wanted)}  {strategy}, seed {seed}: {row['correct']} of {row['images']} "
            f"in {row['seconds']:.0f} s"
        )
    _write_page(_rows())
    print(f"Written: {PAGE.relative_to(ROOT)}")


def _run(arguments: argparse.Namespace, strategy: str, seed: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as home:
        command = [
            *(sys.executable, "-m", "tlserve", "finetune", arguments.data),
            *("--arch", arguments.arch, "--weights", arguments.weights),
            *("--strategy", strategy, "--seed", seed, "--name", "measured"),
            *("--output", Path(home) / "models", "--runs", Path(home) / "runs"),
        ]
        done = subprocess.run(
            list(map(str, command)), cwd=ROOT, capture_output=True, text=True, check=False
        )
        if done.returncode:
            sys.exit(f"{strategy}, seed {seed} failed:\n{done.stdout}{done.stderr}")
        manifest = Bundle.read(Path(home) / "models" / "measured").manifest
    metrics = manifest.metrics
    return {
        "strategy": strategy,
        "seed": seed,
        "arch": manifest.architecture,
        "correct": metrics.val_correct,
        "images": metrics.val_images,
        "train_images": manifest.provenance.dataset.train_images,
        "seconds": metrics.seconds,
        "epochs": len(metrics.history),
        "best_epoch": metrics.best_epoch,
        "trainable": metrics.trainable_parameters,
        "optimizer_bytes": metrics.optimizer_bytes,
        "optimizer": manifest.training["optimizer"],
        "selection": manifest.selection and manifest.selection.model_dump(),
        "torch": manifest.provenance.versions["torch"],
        "machine": f"{platform.machine()}, {os.cpu_count()} CPU cores",
    }


def _rows() -> list[dict[str, Any]]:
    if not RESULTS.is_file():
        return []
    return [json.loads(line) for line in RESULTS.read_text("utf-8").splitlines()]


def _write_page(rows: list[dict[str, Any]]) -> None:
    """Replace what lies between the two marks of the page."""
    page = PAGE.read_text("utf-8")
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n{_measured(rows)}\n{END}{after}", "utf-8")


def _measured(rows: list[dict[str, Any]]) -> str:
    first = rows[0]
    head_only = _fastest(rows, "feature-extraction")
    lines = [
        f"{first['train_images']} photographs train and {first['images']} validate two classes; "
        f"`{first['arch']}` with ImageNet weights, the defaults of each strategy, seeds "
        f"{', '.join(map(str, sorted({r['seed'] for r in rows})))}. torch {first['torch']}, "
        f"{first['machine']}.",
        "",
        "| strategy | right, by seed | accuracy (mean) | seconds (fastest) | of the head's time | "
        "trained parameters | optimiser state |",
        "|---|---|---|---|---|---|---|",
    ]
    for strategy in STRATEGIES:
        mine = [row for row in rows if row["strategy"] == strategy]
        right = ", ".join(str(row["correct"]) for row in mine)
        accuracy = statistics.mean(row["correct"] / row["images"] for row in mine)
        seconds = _fastest(rows, strategy)
        megabytes = _median(rows, strategy, "optimizer_bytes") / 1e6
        lines.append(
            f"| `{strategy}` | {right} | {accuracy:.2%} | {seconds:.0f} | "
            f"{seconds / head_only:.2f} | {int(_median(rows, strategy, 'trainable')):,} | "
            f"{megabytes:.2f} MB |"
        )
    lines.append("")
    for row in rows:
        if row["selection"]:
            kept = f"epoch {row['best_epoch']}" if row["best_epoch"] else "the probe"
            lines.append(
                f"- `auto`, seed {row['seed']}: {row['selection']['reason']} "
                f"(`{row['selection']['strategy']}`); kept: {kept}."
            )
    return "\n".join(lines)


def _fastest(rows: list[dict[str, Any]], strategy: str) -> float:
    """Give the seconds of the seed that other work on the machine disturbed least."""
    return float(min(row["seconds"] for row in rows if row["strategy"] == strategy))


def _median(rows: list[dict[str, Any]], strategy: str, key: str) -> float:
    return float(statistics.median(row[key] for row in rows if row["strategy"] == strategy))


if __name__ == "__main__":
    main()
