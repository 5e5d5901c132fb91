"""``tlserve finetune`` with settings from a file, and with settings that are found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from tests.commands import tlserve
from tests.networks import stand_in
from tlserve.bundle import Bundle

SETTINGS = """
arch = "squeezenet1_1"
weights = "none"
strategy = "partial"
unfreeze = 2
optimizer = "sgd"
lr = 0.01
epochs = 9
image-size = 64
label-smoothing = 0.1
mixup = 0.2
auto-augment = "trivialaugment"
balance = "sampler"
ema = 0.9
workers = 0
"""


def _finetune(colours: Path, home: Path, name: str, *options: object) -> tuple[str, Bundle]:
    result = tlserve(
        *("finetune", colours, "--name", name, "--output", home / "models"),
        *("--runs", home / "runs", *options),
    )
    assert result.returncode == 0, result.stderr
    return result.stdout, Bundle.read(home / "models" / name)


def test_a_file_an_option_over_it_and_the_bundle_fed_back(colours: Path, tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text(SETTINGS)
    _, first = _finetune(
        colours, tmp_path, "first", "--config", tmp_path / "settings.toml", "--epochs", 2
    )
    training: dict[str, Any] = first.manifest.training
    given = {"strategy": "partial", "unfreeze": 2, "optimizer": "sgd", "lr": 0.01, "mixup": 0.2}
    assert given.items() <= training.items()
    assert training["epochs"] == len(first.manifest.metrics.history) == 2
    # What was left to the strategy is recorded as what it was.
    assert (training["schedule"], training["weight_decay"]) == ("cosine", 1e-4)

    _, again = _finetune(colours, tmp_path, "again", "--config", first.path, "--workers", 0)
    assert again.manifest.version == first.manifest.version


def test_auto_says_what_it_does_and_why(colours: Path, tmp_path: Path) -> None:
    torch.save(stand_in("mobilenet_v3_small", 10, 64).state_dict(), tmp_path / "weights.pth")
    printed, bundle = _finetune(
        *(colours, tmp_path, "auto", "--strategy", "auto", "--arch", "mobilenet_v3_small"),
        *("--weights", tmp_path / "weights.pth", "--image-size", 64, "--epochs", 1),
        *("--workers", 0),
    )
    selection = bundle.manifest.selection
    assert selection is not None
    assert f"auto: {selection.reason}. The probe took" in printed
    assert selection.probe_accuracy is not None
    shown = tlserve("inspect", bundle.path).stdout
    assert f"auto: {selection.strategy}" in " ".join(shown.split())
    assert json.loads(tlserve("inspect", bundle.path, "--json").stdout)["selection"]


def test_a_learning_rate_that_is_found_is_recorded(colours: Path, tmp_path: Path) -> None:
    printed, bundle = _finetune(
        *(colours, tmp_path, "found", "--lr", "find", "--arch", "resnet18", "--weights", "none"),
        *("--strategy", "full", "--image-size", 32, "--epochs", 1, "--workers", 0),
    )
    rate = bundle.manifest.training["lr"]
    assert isinstance(rate, float)
    assert f"--lr find: {rate:g}." in printed
