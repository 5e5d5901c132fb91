"""Fine-tuning against the loop of PyTorch's tutorial: time, memory, and how both grow.

    python benchmarks/finetune.py [--rounds 3] [--only CASE …] [--fresh] [--options …]

Each case is a process of its own. The rounds are the outer loop and each begins with another case,
so that a slow minute of the machine does not fall on one of them. A last round looks at memory, and
its times do not count. Before the first run of the tutorial's loop, short ones find out how many
processes had best load its images here. Results are added to benchmarks/results/finetune.jsonl, and
docs/benchmarks.md is written from them; what is there already is not measured again unless --fresh
is given.
"""

from __future__ import annotations

import argparse
import compileall
from pathlib import Path

from benchmarks.finetune_cases import ROOT, Case, Round, Settings, cases, pilots
from benchmarks.finetune_page import tables
from benchmarks.records import add_rows, read_rows, replace_section

SHARED = ROOT.parent / "shared"
RESULTS = ROOT / "benchmarks" / "results" / "finetune.jsonl"
PAGE = ROOT / "docs" / "benchmarks.md"
_PILOT_ROUNDS = 2


def main() -> None:
    options = _parse()
    # The processes run in the root of the repository, wherever this one does.
    data, weights = options.data.resolve(), options.weights.resolve()
    settings = Settings(data, weights, options.images, options.device)
    if options.fresh:
        RESULTS.unlink(missing_ok=True)
    # As an installation does: otherwise, the first run of each program would compile it.
    for package in ("tlserve", "benchmarks"):
        compileall.compile_dir(ROOT / package, quiet=1)
    wanted = _chosen(cases(settings), options.only)
    if any(case.name.startswith("tutorial") for case in wanted):
        wanted = _chosen(cases(settings, _best_workers(settings)), options.only)
    for number in range(options.rounds):
        first = number % len(wanted)
        for case in wanted[first:] + wanted[:first]:
            _measure(case, number)
    for case in wanted:
        _measure(case, "memory")
    replace_section(PAGE, "finetune", tables(read_rows(RESULTS)))
    print(f"Written: {PAGE.relative_to(ROOT)}")


def _chosen(found: list[Case], only: list[str] | None) -> list[Case]:
    return [case for case in found if only is None or case.name in only]


def _best_workers(settings: Settings) -> int:
    """Find out how many processes that load images make the tutorial's loop fastest."""
    shortest = {}
    found = pilots(settings)
    for number in range(_PILOT_ROUNDS):
        for case in found.values():
            _measure(case, number)
    for workers, case in found.items():
        mine = [row["train_seconds"] for row in read_rows(RESULTS) if row["name"] == case.name]
        shortest[workers] = min(mine)
    return min(shortest, key=shortest.__getitem__)


def _measure(case: Case, of_round: Round) -> None:
    """Measure a case in a round, unless that is done."""
    done = {(row["name"], row["round"]) for row in read_rows(RESULTS)}
    if not all((name, of_round) in done for name in case.rows):
        add_rows(RESULTS, case.run(of_round))
    for row in read_rows(RESULTS):
        if row["name"] in case.rows and row["round"] == of_round:
            times = f"{row['train_seconds']:.2f} s of training, {row['seconds']:.1f} s in all"
            found = f"{row['peak_bytes'] / 1e6:.0f} MB" if of_round == "memory" else times
            right = f"{row['correct']} of {row['val_images']} right"
            print(f"round {of_round}  {row['name']}: {found}, {right}", flush=True)


def _parse() -> argparse.Namespace:
    data, weights = (
        SHARED / "data" / "hymenoptera",
        SHARED / "weights" / "mobilenet_v2_imagenet.pth",
    )
    known = [case.name for case in cases(Settings(data, weights, 0, "cpu"))]
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", metavar="CASE", choices=known, help=", ".join(known))
    parser.add_argument("--fresh", action="store_true", help="forget earlier results")
    parser.add_argument("--data", type=Path, default=data)
    parser.add_argument("--weights", type=Path, default=weights)
    parser.add_argument("--images", type=int, default=256, help="the fewest synthetic ones")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    return parser.parse_args()


if __name__ == "__main__":
    main()
