"""Trying learning rates and weight decays before training."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.finetune.test_features import Recorder, opened
from tlserve.errors import UsageError
from tlserve.finetune.config import FinetuneConfig
from tlserve.finetune.run import finetune
from tlserve.finetune.sweep import with_sweep


@pytest.fixture
def config(colours: Path) -> FinetuneConfig:
    return FinetuneConfig(
        data=colours,
        name="x",
        arch="mobilenet_v3_small",
        batch_size=8,
        image_size=32,
        epochs=3,
        sweep=True,
    )


def test_the_best_is_kept_and_the_network_left_alone(
    config: FinetuneConfig, tmp_path: Path
) -> None:
    run, events = opened(config, tmp_path)
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    drawn = torch.get_rng_state()
    found = with_sweep(run, config.resolved())
    assert torch.equal(torch.get_rng_state(), drawn)
    after = run.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    tries = [line for line in events.messages if line.startswith("sweep ")]
    assert len(tries) == 15
    right = [int(re.findall(r"(\d+) of \d+ right", line)[0]) for line in tries]
    (chosen,) = [number for number, line in enumerate(tries) if line.endswith("best")][-1:]
    assert right[chosen] == max(right)
    assert f"lr {found.lr:g} " in tries[chosen]
    assert f"weight decay {found.weight_decay:g} " in tries[chosen]
    losses = {line.split("val loss ")[1].split()[0] for line in tries}
    assert len(losses) > 5, "rates a hundredfold apart do not give the same"
    assert events.tasks.count("frozen blocks") == 3, "computed for the first try, found by others"
    assert not (tmp_path / "sweep").exists()


def test_training_gives_what_the_sweep_saw(config: FinetuneConfig, tmp_path: Path) -> None:
    config = replace(
        config, weights="none", workers=0, output=tmp_path / "models", runs=tmp_path / "runs"
    )
    events = Recorder()
    manifest = finetune(config, events).manifest
    best = [line for line in events.messages if line.endswith("  best")][-1]
    assert f"{manifest.metrics.val_correct} of {manifest.metrics.val_images} right" in best
    assert f"val loss {manifest.metrics.val_loss:.4f}" in best
    assert f"lr {manifest.training['lr']:g} " in best
    fed_back = replace(config, name="y", sweep=False, lr=manifest.training["lr"])  # type: ignore[arg-type]
    fed_back = replace(fed_back, weight_decay=manifest.training["weight_decay"])  # type: ignore[arg-type]
    assert finetune(fed_back, Recorder()).manifest.metrics.val_loss == manifest.metrics.val_loss


@pytest.mark.parametrize(
    ("change", "rule"),
    [({"strategy": "auto"}, "--strategy auto chooses"), ({"lr": "find"}, "--lr find chooses")],
)
def test_two_ways_to_choose_a_rate_are_refused(
    config: FinetuneConfig, change: dict[str, str], rule: str
) -> None:
    with pytest.raises(UsageError, match=rule):
        replace(config, **change).resolved()  # type: ignore[arg-type]
