"""Writing down what a parity check found."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from export.outcome import Parity
from tlserve.bundle import StagedBundle
from tlserve.bundle.manifest import ParitySummary

PARITY = "parity.json"


def record(
    staged: StagedBundle, results: Sequence[Parity], max_accuracy_drop: float, torch_version: str
) -> None:
    """Record the outcomes of files that passed, in ``parity.json`` and with each file.

    Args:
        staged: Where the files are.
        results: The outcomes.
        max_accuracy_drop: The points that precisions narrower than float32 were allowed to lose.
        torch_version: Of the torch that they were compared with.

    Raises:
        StorageError: The disk refused.
    """
    for result in results:
        decisions = result.level("decisions")
        entry = staged.entry(result.file)
        narrow = entry.precision != "float32"
        measured = [level for level in result.levels if level.passed and level.tolerance]
        closest = max(measured, key=lambda level: level.max_abs_diff / level.tolerance)
        staged.add(
            result.file,
            entry.kind,
            precision=entry.precision,
            details=entry.details,
            parity=ParitySummary(
                passed=result.passed,
                max_abs_diff=closest.max_abs_diff,
                tolerance=closest.tolerance,
                decisions_compared=decisions.compared,
                decisions_changed=len(decisions.flips),
                accuracy_drop=decisions.accuracy_drop,
                max_accuracy_drop=max_accuracy_drop if narrow else None,
            ),
        )
    report = {
        "schema_version": 1,
        "versions": {"torch": torch_version},
        "results": [
            *_earlier_results(staged, {r.format for r in results}),
            *(asdict(r) | {"passed": r.passed} for r in results),
        ],
    }
    staged.fresh(PARITY).write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    staged.add(PARITY, "parity")


def _earlier_results(staged: StagedBundle, replaced: set[str]) -> list[dict[str, object]]:
    """Keep what an earlier export recorded of files that this one leaves alone."""
    path = staged.path / PARITY
    if not path.is_file():
        return []
    results: list[dict[str, object]] = json.loads(path.read_text("utf-8"))["results"]
    return [r for r in results if r["format"] not in replaced and _is_there(staged, r)]


def _is_there(staged: StagedBundle, result: dict[str, object]) -> bool:
    return (staged.path / str(result["file"])).is_file()
