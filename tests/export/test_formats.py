"""The exporters by themselves, for every architecture."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from export.run import export
from tests.folders import write_parts
from tests.networks import stand_in
from tlserve.bundle import Bundle
from tlserve.finetune.config import FinetuneConfig
from tlserve.finetune.events import Events
from tlserve.finetune.run import finetune
from tlserve.runtime import Predictor

ONE_OF_EACH_KIND = [
    "efficientnet_b0",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "resnet18",
    "resnet50",
    "vgg16",
    "vit_b_16",
]
_SIDE = 64


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ONE_OF_EACH_KIND)
def test_an_architecture_goes_the_whole_way(architecture: str, tmp_path: Path) -> None:
    whole_way(architecture, tmp_path)


def whole_way(architecture: str, tmp_path: Path) -> None:
    """Fine-tune from a file of weights, export, and compare the backends' answers."""
    weights = tmp_path / "weights.pth"
    torch.save(stand_in(architecture, 1000, _SIDE).state_dict(), weights)
    config = FinetuneConfig(
        data=write_parts(tmp_path / "data", train=4, val=2),
        name=architecture.replace("/", "-"),
        arch=architecture,
        weights=str(weights),
        strategy="feature-extraction",
        epochs=2,
        lr=1e-2,
        batch_size=6,
        image_size=_SIDE,
        workers=0,
        output=tmp_path / "models",
        runs=tmp_path / "runs",
    )
    path = finetune(config, Events()).path
    bundle = export(path, ["onnx", "torchscript"])
    entries = [e for e in bundle.manifest.files.values() if e.kind in ("onnx", "torchscript")]
    assert all(e.parity is not None and e.parity.passed for e in entries)
    image = (tmp_path / "data" / "val" / "red" / "100.png").read_bytes()
    answers = [
        Predictor.load(Bundle.read(path), name).predict([image])[0]
        for name in ("eager", "torchscript", "onnx")
    ]
    for other in answers[1:]:
        assert [p.label for p in other] == [p.label for p in answers[0]]
        probabilities = [p.probability for p in other]
        assert probabilities == pytest.approx([p.probability for p in answers[0]], abs=1e-5)
