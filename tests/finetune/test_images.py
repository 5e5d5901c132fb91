"""Decoded images are kept from epoch to epoch and from run to run, and change nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.finetune.configs import short_run
from tests.finetune.test_features import Recorder, largest_file
from tests.folders import COLOURS, picture, write_parts
from tests.networks import filled
from tests.sessions import session
from tlserve.data.disk_cache import DiskCache
from tlserve.data.reduce import sufficient_edge
from tlserve.finetune.config import FinetuneConfig
from tlserve.finetune.evaluate import evaluate
from tlserve.finetune.events import Events
from tlserve.finetune.images import keep_images
from tlserve.finetune.run import finetune
from tlserve.finetune.session import Session

_SIDE = 32


@pytest.fixture
def config(colours: Path, tmp_path: Path) -> FinetuneConfig:
    return short_run(colours, tmp_path, batch_size=8, epochs=2)


def opened(config: FinetuneConfig, home: Path, budget: int = 10**9) -> tuple[Session, Recorder]:
    events = Recorder()
    cache = DiskCache(home / "images", budget)
    model = filled("resnet18", 3, _SIDE)
    return session(config, model, home, events=events, image_cache=cache), events


def kept(config: FinetuneConfig, home: Path, budget: int = 10**9) -> tuple[Session, Recorder]:
    run, events = opened(config, home, budget)
    keep_images(run, config, 1)
    return run, events


def epoch(run: Session) -> torch.Tensor:
    run.views.epoch = 3
    return torch.cat([images for images, _ in run.train])


def test_a_run_gives_the_same_model_with_them_and_without(config: FinetuneConfig) -> None:
    events = {name: Recorder() for name in ("off", "first", "warm", "no-room")}
    off = finetune(replace(config, name="off", image_cache="off"), events["off"])
    entries = config.runs / ".images"
    assert not entries.exists()
    no_room = replace(config, name="no-room", cache_budget=1e-6)
    models = [
        finetune(replace(no_room), events["no-room"]),
        finetune(replace(config, name="first"), events["first"]),
        finetune(replace(config, name="warm", workers=2), events["warm"]),
    ]
    weights = {bundle.verified("weights").read_bytes() for bundle in (off, *models)}
    assert len(weights) == 1
    assert len({b.manifest.metrics.val_loss for b in (off, *models)}) == 1
    assert len(list(entries.iterdir())) == 2
    assert "decoding images" in events["first"].tasks
    assert any("decoded once: 36 images" in m for m in events["first"].messages)
    for name in ("off", "warm", "no-room"):
        assert "decoding images" not in events[name].tasks
    assert any("--cache-budget" in m for m in events["no-room"].messages)
    assert not any("decoded" in m for m in events["warm"].messages)


def test_the_files_are_read_once(config: FinetuneConfig, tmp_path: Path) -> None:
    data = write_parts(tmp_path / "data")
    config = replace(config, data=data)
    expected, _ = opened(config, tmp_path)
    views = epoch(expected)
    result = evaluate(expected.model, expected.val, expected.device, Events())
    run, _ = kept(config, tmp_path)
    for path in data.glob("*/*/*"):
        path.unlink()
    assert torch.equal(epoch(run), views)
    assert evaluate(run.model, run.val, run.device, Events()) == result


def test_one_epoch_keeps_nothing_but_takes_what_is_there(
    config: FinetuneConfig, tmp_path: Path
) -> None:
    once = replace(config, epochs=1)
    run, events = kept(once, tmp_path)
    assert (events.tasks, events.messages) == ([], [])
    assert not (tmp_path / "images").exists()
    kept(config, tmp_path)
    run, events = kept(once, tmp_path)
    assert all(dataset.kept is not None for dataset in run.images.values())


@pytest.mark.parametrize(
    ("change", "begun"),
    [
        ({"lr": 0.1, "batch_size": 3, "seed": 5, "flip": False, "min_scale": 0.9}, 0),
        ({"image_size": 48}, 12),
        ({"image_cache": "reduced"}, 24),
    ],
    ids=str,
)
def test_what_they_depend_on_makes_others(
    config: FinetuneConfig, tmp_path: Path, change: dict[str, Any], begun: int
) -> None:
    kept(config, tmp_path)
    run, events = opened(replace(config, **change), tmp_path)
    keep_images(run, replace(config, **change), 1)
    assert sum(events.totals) == begun
    assert all(dataset.kept is not None for dataset in run.images.values())


def test_other_contents_make_others(config: FinetuneConfig, tmp_path: Path) -> None:
    config = replace(config, data=write_parts(tmp_path / "data", train=3, val=2))
    kept(config, tmp_path)
    images = sorted((config.data / "train" / "red").iterdir())
    images[0].write_bytes(images[1].read_bytes())
    run, events = kept(config, tmp_path)
    assert sum(events.totals) == 9
    assert torch.equal(epoch(run), epoch(opened(config, tmp_path)[0]))


def test_a_disk_that_refuses_is_named_and_images_are_decoded(
    config: FinetuneConfig, tmp_path: Path
) -> None:
    expected = epoch(opened(config, tmp_path)[0])
    with largest_file(10_000):
        run, events = kept(config, tmp_path)
    assert "File too large" in events.messages[-1]
    assert list((tmp_path / "images").iterdir()) == []
    assert torch.equal(epoch(run), expected)


def test_large_images_are_reduced_whether_there_is_room_or_not(
    config: FinetuneConfig, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    for part in ("train", "val"):
        for name in COLOURS:
            (data / part / name).mkdir(parents=True)
            for number in range(2):
                picture(COLOURS[name], number, 150).save(data / part / name / f"{number}.png")
    config = replace(config, data=data)
    whole, _ = kept(config, tmp_path)
    small = replace(config, image_cache="reduced")
    run, _ = kept(small, tmp_path)
    without, events = kept(small, tmp_path / "other", budget=1000)
    assert "needs less" not in events.messages[0], "it is reduced already"
    assert torch.equal(epoch(run), epoch(without))
    assert not torch.equal(epoch(run), epoch(whole))
    sizes = sorted(path.stat().st_size for path in (tmp_path / "images").glob("*/pixels"))
    validation, reduced, decoded = sizes
    assert validation == 6 * 3 * _SIDE * _SIDE
    edge = sufficient_edge(run.spec, config.min_scale)
    assert reduced == 6 * 3 * edge * edge
    assert decoded == 3 * sum(3 * 150 * (150 + number) for number in range(2))


def test_where_frozen_blocks_are_kept_images_are_not(config: FinetuneConfig) -> None:
    frozen = replace(config, strategy="feature-extraction", epochs=4, views=1, schedule="constant")
    finetune(frozen, Events())
    assert (config.runs / ".features").is_dir()
    assert not (config.runs / ".images").exists()
    finetune(replace(frozen, name="y", cache="off"), Events())
    assert (config.runs / ".images").is_dir()
