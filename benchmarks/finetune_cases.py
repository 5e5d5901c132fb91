"""What ``benchmarks/finetune.py`` measures: a case starts a process, and gives rows of results."""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from benchmarks.process import Measured, measure
from benchmarks.records import Row
from benchmarks.synthetic import write_folder
from tlserve import __version__
from tlserve.bundle import Bundle
from tlserve.runtime.processors import available_processors

ROOT = Path(__file__).resolve().parent.parent
BATCH_SIZE = 32
HEAD_EPOCHS = (10, 30)
FULL_EPOCHS = 2
GROWTH = (1, 4, 16)
"""How many times the smallest number of synthetic images."""

Round = int | Literal["memory"]
"""A number, which is the seed, too; or the round in which memory is looked at and time is not."""

_LINEAR_EPOCHS = 3
"""One more than there are views, so that what frozen blocks compute is kept."""

_OTHER_RATE = 2e-3
_PILOT_EPOCHS = 2
_LIBRARIES = ("torch", "torchvision", "pillow", "numpy")


@dataclass(frozen=True)
class Settings:
    """On what to measure.

    Attributes:
        data: The image folder.
        weights: MobileNetV2's state dict.
        images: The smallest number of synthetic images.
        device: Of both sides.
    """

    data: Path
    weights: Path
    images: int
    device: str


@dataclass(frozen=True)
class Case:
    """One thing to measure, once a round.

    Attributes:
        name: What ``--only`` calls it.
        rows: The names of its rows of results.
        run: Measures it in a round.
    """

    name: str
    rows: tuple[str, ...]
    run: Callable[[Round], list[Row]]


def cases(settings: Settings, workers: int = 4) -> list[Case]:
    """List the cases in the order of the first round.

    Args:
        settings: On what.
        workers: The processes that load the tutorial's images; in the tutorial, they are four.
    """
    found = []
    for epochs in HEAD_EPOCHS:
        tutorial = partial(_tutorial, settings, f"tutorial-{epochs}", epochs, workers)
        found.append(Case(f"tutorial-{epochs}", (f"tutorial-{epochs}",), tutorial))
        both = (f"cold-{epochs}", f"warm-{epochs}")
        found.append(Case(f"tlserve-{epochs}", both, partial(_cold_and_warm, settings, epochs)))
    tutorial = partial(_tutorial, settings, "tutorial-full", FULL_EPOCHS, workers, full=True)
    found.append(Case("tutorial-full", ("tutorial-full",), tutorial))
    found.append(Case("tlserve-full", ("tlserve-full",), partial(_full, settings)))
    for times in GROWTH:
        name = f"linear-{times}"
        found.append(Case(name, (name,), partial(_linear, settings, times)))
    return found


def pilots(settings: Settings) -> dict[int, Case]:
    """List short runs of the tutorial's loop by the processes that load its images.

    The tutorial has four; one a processor is what else may suit the machine.
    """
    counts = sorted({4, min(available_processors(), 8)})
    names = {count: f"pilot-{count}" for count in counts}
    return {
        count: Case(name, (name,), partial(_tutorial, settings, name, _PILOT_EPOCHS, count))
        for count, name in names.items()
    }


def _tutorial(
    settings: Settings,
    name: str,
    epochs: int,
    workers: int,
    of_round: Round,
    *,
    full: bool = False,
) -> list[Row]:
    command = [
        *(sys.executable, "-m", "benchmarks.peers.tutorial", settings.data, settings.weights),
        *("--epochs", epochs, "--batch-size", BATCH_SIZE, "--workers", workers),
        *("--seed", _seed(of_round), "--device", settings.device, *["--full"] * full),
    ]
    measured = measure(command, ROOT, look=of_round == "memory")
    outcome: Row = json.loads(measured.output.splitlines()[-1])
    del outcome["history"]
    row = _row(settings, name, of_round, measured)
    return [row | {"epochs": epochs, "workers": workers} | outcome]


def _cold_and_warm(settings: Settings, epochs: int, of_round: Round) -> list[Row]:
    """Measure with an empty cache, then with what the first run kept and another learning rate."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        options = ("--strategy", "feature-extraction", "--epochs", epochs)
        cold = _tlserve(settings, f"cold-{epochs}", of_round, home, *options)
        kept = set((home / "runs" / ".features").iterdir())
        warm = _tlserve(
            settings, f"warm-{epochs}", of_round, home, *options, "--lr", str(_OTHER_RATE)
        )
        if not kept or set((home / "runs" / ".features").iterdir()) != kept:
            sys.exit(f"The second run of {epochs} epochs computed what the first had kept.")
    return [cold, warm]


def _full(settings: Settings, of_round: Round) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        options = ("--strategy", "full", "--epochs", FULL_EPOCHS)
        return [_tlserve(settings, "tlserve-full", of_round, Path(folder), *options)]


def _linear(settings: Settings, times: int, of_round: Round) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        data = write_folder(Path(folder) / "data", times * settings.images)
        options = ("--strategy", "feature-extraction", "--epochs", _LINEAR_EPOCHS)
        name = f"linear-{times}"
        return [_tlserve(settings, name, of_round, Path(folder), *options, data=data)]


def _tlserve(
    settings: Settings,
    name: str,
    of_round: Round,
    home: Path,
    *options: object,
    data: Path | None = None,
) -> Row:
    command = [
        *(sys.executable, "-m", "tlserve", "finetune", data or settings.data),
        *("--arch", "mobilenet_v2", "--weights", settings.weights),
        *("--batch-size", BATCH_SIZE, "--precision", "float32", "--patience", 0),
        *("--seed", _seed(of_round), "--device", settings.device, "--name", name),
        *("--output", home / "models", "--runs", home / "runs", *options),
    ]
    measured = measure(command, ROOT, look=of_round == "memory")
    manifest = Bundle.read(home / "models" / name).manifest
    metrics = manifest.metrics
    return _row(settings, name, of_round, measured) | {
        "epochs": len(metrics.history),
        "train_seconds": metrics.seconds,
        "correct": metrics.val_correct,
        "val_images": metrics.val_images,
        "train_images": manifest.provenance.dataset.train_images,
    }


def _seed(of_round: Round) -> int:
    return 0 if of_round == "memory" else of_round


def _row(settings: Settings, name: str, of_round: Round, measured: Measured) -> Row:
    return {
        "name": name,
        "round": of_round,
        "seconds": measured.seconds,
        "device": settings.device,
        "machine": f"{platform.machine()}, {os.cpu_count()} CPU cores",
        "versions": {"python": platform.python_version(), "tlserve": __version__}
        | {name: version(name) for name in _LIBRARIES},
    } | (asdict(measured.held) if measured.held else {})
