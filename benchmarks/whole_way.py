"""One architecture, the whole way: one training step, bundle, exports, parity, answers.

``python -m benchmarks.whole_way NAME SIZE`` prints the outcome as one line of JSON.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path

import numpy as np
import torch

from export.demands import Demands
from export.outcome import Parity
from export.progress import Progress
from export.run import export
from tests.folders import write_parts
from tests.networks import stand_in
from tlserve.bundle import Bundle
from tlserve.bundle.manifest import FileKind, Scalar
from tlserve.errors import ParityError, TlserveError
from tlserve.finetune.config import FinetuneConfig
from tlserve.finetune.events import Events
from tlserve.finetune.run import finetune
from tlserve.runtime import Predictor
from tlserve.runtime.golden import TOLERANCES, golden_logits
from tlserve.zoo.architectures import head_parameters, skeleton

BATCH_SIZES = (1, 2, 7)
"""What parity is compared at; a batch of 32 large images would take a CPU minutes."""

PROBABILITY_TOLERANCE = TOLERANCES["float32"]
"""The largest difference of a probability between two backends' answers to one image: as for
logits, a share of the range, which is 1."""

_PRETRAINED_CLASSES = 1000
_IMAGES_OF_A_CLASS = 2
_LIBRARIES = ("torch", "torchvision", "onnx", "onnxscript", "onnxruntime")
_LARGE = 128
"""Pixels: from here on, few images are enough for the statistics of a batch normalisation."""


@dataclass(frozen=True)
class ExportOutcome:
    """What became of one exported file.

    Attributes:
        details: What the exporter recorded: method and reason, or opset.
        difference: The largest |Δlogit| as a share of the logits' range, over all levels.
        external_data: Whether the weights are in a file of their own.
    """

    details: dict[str, Scalar]
    difference: float
    external_data: bool


@dataclass(frozen=True)
class Outcome:
    """What became of an architecture.

    Attributes:
        onnx: The ONNX file.
        torchscript: The TorchScript file.
        spread: How much the logits of a class differ between the golden images, at most, as a share
            of the logits' range; near 0, parity would mean nothing.
        probability_difference: The largest between the backends' answers.
    """

    onnx: ExportOutcome
    torchscript: ExportOutcome
    spread: float
    probability_difference: float


class _Results(Progress):
    def __init__(self) -> None:
        self.parity_of: dict[str, Parity] = {}

    def parity(self, results: Sequence[Parity]) -> None:
        self.parity_of = {result.format: result for result in results}


def go(architecture: str, side: int, folder: Path) -> Outcome:
    """Take an architecture from random weights to answers.

    Args:
        architecture: One of torchvision's classifiers, or of timm's.
        side: The side of the square input in pixels.
        folder: For everything that is written.

    Raises:
        TlserveError: A step failed; :class:`ParityError` where an exported file or a backend's
            answer differs.
    """
    data = write_parts(folder / "data", train=_IMAGES_OF_A_CLASS, val=_IMAGES_OF_A_CLASS)
    path = _finetuned(architecture, side, data, folder)
    results = _Results()
    bundle = export(
        path, ["onnx", "torchscript"], Demands(batch_sizes=BATCH_SIZES), progress=results
    )
    image = next((data / "val" / "red").glob("*.png")).read_bytes()
    recorded = golden_logits(bundle)
    return Outcome(
        onnx=_outcome(bundle, "onnx", results),
        torchscript=_outcome(bundle, "torchscript", results),
        spread=float(np.ptp(recorded, axis=0).max() / np.ptp(recorded)),
        probability_difference=_compare_answers(bundle, image),
    )


def _finetuned(architecture: str, side: int, data: Path, folder: Path) -> Path:
    weights = folder / "weights.pth"
    statistics = {"passes": 2, "images": 8} if side >= _LARGE else {}
    model = stand_in(architecture, _PRETRAINED_CLASSES, side, **statistics)
    torch.save(model.state_dict(), weights)
    del model
    config = FinetuneConfig(
        data=data,
        name=architecture.replace("/", "-"),
        arch=architecture,
        weights=str(weights),
        strategy="feature-extraction",
        epochs=1,
        # Adam's first step moves each weight by the learning rate, whatever the gradient, and so
        # the logits by about this many.
        lr=8 / _features(architecture),
        batch_size=3 * _IMAGES_OF_A_CLASS,
        image_size=side,
        workers=0,
        output=folder / "models",
        runs=folder / "runs",
    )
    path = finetune(config, Events()).path
    weights.unlink()
    return path


def _features(architecture: str) -> int:
    state = skeleton(architecture, 2).state_dict()
    weight = next(n for n in reversed(head_parameters(architecture)) if n.endswith("weight"))
    return int(state[weight].shape[1])


def _outcome(bundle: Bundle, kind: FileKind, results: _Results) -> ExportOutcome:
    (name,) = bundle.names(kind)
    levels = [level for level in results.parity_of[kind].levels if level.tolerance]
    return ExportOutcome(
        details=bundle.manifest.files[name].details,
        difference=max(x.max_abs_diff / x.tolerance for x in levels) * TOLERANCES["float32"],
        external_data=kind == "onnx" and bool(bundle.names("onnx-data")),
    )


def _compare_answers(bundle: Bundle, image: bytes) -> float:
    answers = {
        name: Predictor.load(bundle, name).predict([image])[0]
        for name in ("eager", "torchscript", "onnx")
    }
    expected = answers.pop("eager")
    probability = {p.label: p.probability for p in expected}
    worst = 0.0
    for name, found in answers.items():
        difference = max(abs(p.probability - probability[p.label]) for p in found)
        if found[0].label != expected[0].label or not difference <= PROBABILITY_TOLERANCE:
            raise ParityError(
                f"The {name} backend says {found[0].label}, eager says {expected[0].label}; "
                f"probabilities differ by {difference:.3g}."
            )
        worst = max(worst, difference)
    return worst


def _main(architecture: str, side: int) -> None:
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        try:
            row = {"result": "pass"} | asdict(go(architecture, side, Path(folder)))
        except TlserveError as error:
            text = str(error).replace(folder, "…")
            row = {"result": f"{type(error).__name__}: {text}"}
    row["seconds"] = round(time.monotonic() - started, 1)
    row["peak_gib"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)
    row["versions"] = {name: import_module(name).__version__ for name in _LIBRARIES}
    print(json.dumps(row, ensure_ascii=False))


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]))
