"""Choosing a strategy by a linear probe."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.finetune.test_run import Recorder
from tests.folders import mislabel, write_parts
from tests.networks import stand_in
from tests.sessions import session
from tlserve.bundle.manifest import Selection
from tlserve.errors import UsageError
from tlserve.finetune.auto import Facts, choose, decide
from tlserve.finetune.beginning import Beginning
from tlserve.finetune.config import FinetuneConfig
from tlserve.finetune.evaluate import Evaluation, evaluate
from tlserve.finetune.events import Events
from tlserve.finetune.loop import train
from tlserve.finetune.probe import linear_probe

SIDE = 32
FACTS = Facts(
    images_per_class=100, probe=Evaluation(0.2, 95, 100), chance=0.5, minutes=5, budget=60
)


def chosen(beginning: Beginning) -> Selection:
    assert beginning.selection is not None
    return beginning.selection


@pytest.fixture
def config(colours: Path) -> FinetuneConfig:
    return FinetuneConfig(
        data=colours, name="auto", strategy="auto", image_size=SIDE, epochs=2, batch_size=8
    )


@pytest.mark.parametrize(
    ("change", "strategy", "reason"),
    [
        ({}, "partial", "similar to those of the pretraining; with 100 images"),
        ({"probe": Evaluation(0.1, 99, 100)}, "feature-extraction", "nothing left to win"),
        ({"images_per_class": 9}, "feature-extraction", "has 9 images: too few"),
        ({"minutes": 61}, "feature-extraction", "take about 61 minutes and --budget is 60"),
        ({"images_per_class": 1000}, "discriminative", "similar to .* all blocks"),
        ({"probe": Evaluation(0.9, 70, 100)}, "discriminative", "unlike .* all blocks"),
        ({"chance": 0.9}, "discriminative", "unlike"),
    ],
)
def test_the_choice(change: dict[str, object], strategy: str, reason: str) -> None:
    found, why = choose(replace(FACTS, **change))  # type: ignore[arg-type]
    assert found == strategy
    assert re.search(reason, why), why
    assert "right" in why, "the measurement is part of the reason"


@pytest.mark.parametrize("architecture", ["resnet18", "squeezenet1_1", "vgg11_bn", "googlenet"])
def test_a_probe_trains_the_head_and_nothing_else(
    architecture: str, config: FinetuneConfig, tmp_path: Path
) -> None:
    config = replace(config, arch=architecture, image_size=64)
    opened = session(config, stand_in(architecture, 3, 64), tmp_path)
    before = {k: v.clone() for k, v in opened.model.state_dict().items()}
    first = evaluate(opened.model, opened.val, opened.device, Events())
    probe = linear_probe(opened)
    moved = {k for k, v in opened.model.state_dict().items() if not torch.equal(v, before[k])}
    assert moved
    assert moved <= set(opened.head)
    # What it says of the network is what the network does.
    after = evaluate(opened.model, opened.val, opened.device, Events())
    assert (after.correct, after.images) == (probe.result.correct, 12)
    assert after.loss == pytest.approx(probe.result.loss, rel=1e-3)
    assert after.better_than(first)


def test_a_network_whose_end_cannot_be_probed_is_refused(
    config: FinetuneConfig, tmp_path: Path
) -> None:
    model = stand_in("resnet18", 3, SIDE)
    model.register_forward_hook(lambda _module, _inputs, logits: logits * 2)
    with pytest.raises(UsageError, match="--strategy auto cannot probe this network"):
        linear_probe(session(config, model, tmp_path))


def test_the_better_of_probe_and_fine_tuning_is_kept(
    config: FinetuneConfig, tmp_path: Path
) -> None:
    # The probe errs on the mislabelled, so there is something to win; at this rate nothing is won.
    data = write_parts(tmp_path / "data", train=12, val=4)
    mislabel(data, "red", as_name="blue")
    ruinous = replace(config, data=data, lr=30.0, clip_grad=1.0)
    events = Recorder()
    opened = session(ruinous, stand_in("resnet18", 3, SIDE), tmp_path, events=events)
    beginning = decide(opened, ruinous)
    selection = chosen(beginning)
    trained = train(opened, beginning)
    assert selection.strategy in ("partial", "discriminative")
    assert selection.lr == 30
    assert trained.best.correct == 8
    assert len(trained.history) == 2
    assert trained.best_epoch == 0
    assert any("the probe, which is kept" in message for message in events.messages)
    assert selection.probe_accuracy == trained.best.accuracy
    opened.model.load_state_dict(load_file(trained.checkpoint))
    kept = evaluate(opened.model, opened.val, opened.device, Events())
    assert kept.correct == trained.best.correct


def test_random_weights_are_not_probed(config: FinetuneConfig, tmp_path: Path) -> None:
    events = Recorder()
    opened = session(
        config, stand_in("resnet18", 3, SIDE), tmp_path, events=events, pretrained=False
    )
    beginning = decide(opened, config)
    selection = chosen(beginning)
    trained = train(opened, beginning)
    assert selection.strategy == "full"
    assert selection.probe_accuracy is None
    assert "weights are random" in events.messages[0]
    assert trained.best_epoch >= 1
