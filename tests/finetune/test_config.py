"""Settings: their defaults, their rules, and files of them."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from tlserve.bundle import Bundle
from tlserve.errors import UsageError
from tlserve.finetune.config import DEFAULTS, NOT_RECORDED, FinetuneConfig
from tlserve.finetune.config_file import read_settings


def config(**settings: Any) -> FinetuneConfig:
    return FinetuneConfig(data=Path(), name="x", **settings)


@pytest.mark.parametrize("strategy", DEFAULTS)
def test_no_flag_is_needed(strategy: str) -> None:
    resolved = config(strategy=strategy).resolved()
    open_ends = {"unfreeze", "freeze", "layer_decay", "image_size", "jpeg_draft", "workers"}
    open_ends |= {"time_limit"}
    unset = {f.name for f in fields(resolved) if getattr(resolved, f.name) is None}
    assert unset <= open_ends
    assert resolved.resolved() == resolved


def test_what_is_given_wins_over_the_strategys_default() -> None:
    resolved = config(strategy="full", lr=0.5, optimizer="sgd", label_smoothing=0.0).resolved()
    assert (resolved.lr, resolved.optimizer, resolved.label_smoothing) == (0.5, "sgd", 0.0)
    assert resolved.weight_decay == 1e-4
    assert config(schedule="plateau").resolved().patience == 6
    assert config(schedule="cosine").resolved().patience == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "--epochs 0: it must be at least 1"),
        ({"lr": 0.0}, "--lr 0.0: it must be above 0, or find"),
        ({"ema": 1.0}, "--ema 1.0: it must be from 0 to below 1"),
        ({"label_smoothing": 1.0}, "--label-smoothing 1.0: it must be"),
        ({"mixup": -1.0}, "--mixup -1.0: it must be 0 or more"),
        ({"layer_decay": 2.0}, "--layer-decay 2.0: it must be above 0 and at most 1"),
        ({"lr": float("nan")}, "--lr nan"),
        ({"warmup": 1.0, "schedule": "plateau"}, "--warmup needs a schedule in time"),
    ],
)
def test_rules_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        config(**settings).resolved()


FILES = {
    "a.toml": 'arch = "vgg16"\nlr = 1\nlayer-decay = 0.5\nstrict = true\noutput = "there"\n',
    "a.yaml": "arch: vgg16\nlr: 1\nlayer-decay: 0.5\nstrict: true\noutput: there\n",
    "a.json": '{"arch":"vgg16","lr":1,"layer_decay":0.5,"strict":true,"output":"there"}',
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_says_the_same_as_the_options(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(FILES[name])
    expected = {
        "arch": "vgg16",
        "lr": 1.0,
        "layer_decay": 0.5,
        "strict": True,
        "output": Path("there"),
    }
    assert read_settings(tmp_path / name) == expected


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.toml", "epoch = 3", r"a\.toml: there is no setting 'epoch'.*Did you mean epochs\?"),
        ("a.toml", "data = 'x'", "there is no setting 'data'"),
        ("a.toml", "optimizer = 'lion'", "optimizer = 'lion': Input should be 'sgd', 'adam' or"),
        ("a.toml", "epochs = 'many'", "epochs = 'many': .*integer"),
        ("a.toml", "epochs = ", "is not valid TOML"),
        ("a.yaml", "a: [", "is not valid YAML"),
        ("a.json", "{", "is not valid JSON"),
        ("a.yaml", "- 1", "holds a list, not settings"),
        ("a.ini", "x", "is no settings file by its name"),
    ],
)
def test_a_bad_file_says_what_is_wrong(
    name: str, content: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UsageError) as caught:
        read_settings(tmp_path / name)
    assert re.search(message, f"{caught.value.message} {caught.value.hint}")


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(UsageError, match=r"nowhere\.toml cannot be read: No such file"):
        read_settings(Path("nowhere.toml"))


def test_what_a_bundle_records_can_be_fed_back(trained: Path) -> None:
    recorded = Bundle.read(trained).manifest.training
    assert set(recorded) == {f.name for f in fields(FinetuneConfig)} - NOT_RECORDED
    for path in (trained, trained / "bundle.json"):
        again = config(**read_settings(path)).resolved()
        assert json.dumps(again.record()) == json.dumps(recorded)
