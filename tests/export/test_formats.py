"""The exporters by themselves, for every architecture."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from export.run import export
from tests.folders import write_parts
from tlserve.bundle import Bundle
from tlserve.finetune.config import FinetuneConfig
from tlserve.finetune.events import Events
from tlserve.finetune.run import finetune
from tlserve.runtime import Predictor
from tlserve.zoo.architectures import ARCHITECTURES, build

_SIDE = 64


def _stand_in_weights(architecture: str, path: Path) -> None:
    """Random weights whose activations have the size of trained ones.

    Freshly initialised batch normalisations let the signal die out, and a network that says the
    same of everything cannot prove an export: their statistics come from a few forward passes.
    """
    torch.manual_seed(0)
    model = build(architecture, 1000, image_size=_SIDE)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(8, 3, _SIDE, _SIDE))
    torch.save(model.state_dict(), path)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_architecture_goes_the_whole_way(architecture: str, tmp_path: Path) -> None:
    weights = tmp_path / "weights.pth"
    _stand_in_weights(architecture, weights)
    config = FinetuneConfig(
        data=write_parts(tmp_path / "data", train=4, val=2),
        name=architecture,
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
