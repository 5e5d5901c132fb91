"""What frozen blocks make of the images is kept, found again, and given up without room."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.folders import write_parts
from tests.networks import filled
from tests.sessions import session
from tlserve.data.disk_cache import DiskCache
from tlserve.data.loading import Inputs
from tlserve.finetune.config import FinetuneConfig
from tlserve.finetune.evaluate import evaluate
from tlserve.finetune.events import Events
from tlserve.finetune.features import FeatureCache
from tlserve.finetune.feed import Feed, make_feed
from tlserve.finetune.run import finetune
from tlserve.finetune.session import Session
from tlserve.finetune.strategies import make_plan, train_mode
from tlserve.zoo.split import split

_GB = 10**9


class Recorder(Events):
    def __init__(self) -> None:
        self.messages: list[str] = []
        self.tasks: list[str] = []
        self.totals: list[int] = []

    def message(self, text: str) -> None:
        self.messages.append(text)

    def begin(self, task: str, total: int) -> None:
        self.tasks.append(task)
        self.totals.append(total)


@pytest.fixture
def config(colours: Path) -> FinetuneConfig:
    return FinetuneConfig(
        data=colours, name="x", arch="resnet18", batch_size=5, image_size=32, epochs=4
    )


def opened(
    config: FinetuneConfig,
    home: Path,
    *,
    budget: int = _GB,
    change: Callable[[Any], None] = lambda _: None,
) -> tuple[Session, Recorder]:
    model = filled(config.arch, 3, 32)
    change(model)
    events = Recorder()
    cache = FeatureCache(DiskCache(home / "features", budget), config.cache)
    return session(config, model, home, events=events, cache=cache), events


def feed_of(opened: Session, config: FinetuneConfig) -> Feed:
    resolved = config.resolved()
    plan = make_plan(resolved, opened.blocks, 1e-3)
    (stage,) = plan.stages(config.epochs)
    train_mode(opened.model, opened.blocks, stage.opened)
    return make_feed(opened, resolved, stage, opened.model)


def run_through(feed: Feed, epochs: int = 4) -> None:
    for epoch in range(1, epochs + 1):
        assert sum(len(labels) for _, labels in feed.train(epoch, 0)) > 0


def tensors(inputs: Inputs) -> tuple[Tensor, ...]:
    return inputs if isinstance(inputs, tuple) else (inputs,)


@pytest.mark.parametrize("strategy", ["feature-extraction", "partial"])
@pytest.mark.parametrize("balance", ["none", "sampler"])
def test_they_are_what_the_frozen_blocks_make_of_an_epochs_images(
    config: FinetuneConfig, tmp_path: Path, strategy: Any, balance: Any
) -> None:
    config = replace(config, strategy=strategy, balance=balance, views=3)
    run, events = opened(config, tmp_path)
    feed = feed_of(run, config)
    (message,) = events.messages
    counts = f"1 view of {len(run.val_samples)} images and 3 views of {len(run.samples)} images"
    assert counts in message
    count = 1 if strategy == "feature-extraction" else len(run.blocks) // 3
    whole = split(run.model, run.blocks, count)
    for epoch in (1, 3, 4) if balance == "none" else ():
        run.views.epoch = (epoch - 1) % 3 + 1
        images = {
            i: x
            for batch in run.views
            for (i, _), x in zip(batch, _images(run, batch), strict=True)
        }
        run.views.epoch = epoch
        order = [index for batch in run.views for index, _ in batch]
        found = [(tensors(inputs)[0], labels) for inputs, labels in feed.train(epoch, 0)]
        with torch.inference_mode():
            expected = whole.frozen(torch.stack([images[index] for index in order]))[0]
        assert torch.allclose(torch.cat([f for f, _ in found]), expected, atol=1e-5)
        labels = torch.tensor([run.samples[index].label for index in order])
        assert torch.equal(torch.cat([label for _, label in found]), labels)
    with_images = evaluate(run.model, run.val, run.device, Events())
    with_features = evaluate(feed.kept, feed.val, run.device, Events())
    assert with_features.loss == pytest.approx(with_images.loss, rel=1e-6)
    assert with_features.correct == with_images.correct


def _images(run: Session, batch: list[tuple[int, int]]) -> Iterator[Tensor]:
    for view in batch:
        yield run.train.dataset[view][0]


def test_another_run_finds_them(config: FinetuneConfig, tmp_path: Path) -> None:
    first, events = opened(config, tmp_path)
    run_through(feed_of(first, config))
    assert events.tasks == ["frozen blocks"] * 3  # to validate, and two views to train
    again, events = opened(config, tmp_path)
    other = replace(config, lr=0.1, optimizer="sgd", weight_decay=0.5, batch_size=7, patience=0)
    feed = feed_of(again, other)
    run_through(feed)
    assert (events.tasks, events.messages) == ([], [])
    assert feed.network is not again.model


def test_a_view_is_computed_when_an_epoch_needs_it(config: FinetuneConfig, tmp_path: Path) -> None:
    config = replace(config, epochs=10_000)
    run, events = opened(config, tmp_path)
    feed = feed_of(run, config)
    for epoch in (1, 2):
        run_through(feed, epoch)
        assert events.tasks == ["frozen blocks"] * (1 + epoch)
    fewer = replace(config, epochs=20)
    run, events = opened(fewer, tmp_path)
    run_through(feed_of(run, fewer), 20)
    assert events.tasks == [], "how many views there are to be does not matter to each"


def test_an_epoch_begun_later_leaves_out_its_first_batches(
    config: FinetuneConfig, tmp_path: Path
) -> None:
    for cache in ("auto", "off"):
        chosen = replace(config, cache=cache)
        feed = feed_of(opened(chosen, tmp_path)[0], chosen)
        whole = [(tensors(given)[0], labels) for given, labels in feed.train(2, 0)]
        rest = [(tensors(given)[0], labels) for given, labels in feed.train(2, 1)]
        assert len(rest) == len(whole) - 1 > 0
        for (given, labels), (expected, its) in zip(rest, whole[1:], strict=True):
            assert torch.equal(given, expected)
            assert torch.equal(labels, its)


def test_whoever_computes_the_same_second_takes_what_is_there(
    config: FinetuneConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runs begin at once, and neither finds anything."""
    first, _ = opened(config, tmp_path)
    second, events = opened(config, tmp_path)
    run_through(feed_of(first, config), 1)
    monkeypatch.setattr(second.cache, "find", lambda _: None)
    feed = feed_of(second, config)
    run_through(feed, 1)
    assert events.tasks == ["frozen blocks"] * 2
    assert feed.network is not second.model
    assert len(list((tmp_path / "features").iterdir())) == 2


def test_a_disk_that_refuses_a_later_view_is_named_and_training_goes_on(
    config: FinetuneConfig, tmp_path: Path
) -> None:
    run, events = opened(config, tmp_path)
    feed = feed_of(run, config)
    run_through(feed, 1)
    with largest_file(1000):
        second = [(tensors(given)[0], labels) for given, labels in feed.train(2, 0)]
    assert "File too large" in events.messages[-1]
    run_through(feed)
    assert len(events.messages) == 2, "it is said once"
    assert torch.isfinite(torch.cat([given for given, _ in second])).all()
    assert second[0][0].shape == tensors(next(iter(feed.train(1, 0)))[0])[0].shape


def _another_weight(model: Any) -> None:
    with torch.no_grad():
        next(model.parameters()).add_(1e-3)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"flip": False},
        {"min_scale": 0.5},
        {"auto_augment": "randaugment"},
        {"image_size": 48},
        {"strategy": "partial"},
        {"cache": "float16"},
    ],
    ids=str,
)
def test_what_they_depend_on_makes_others(
    config: FinetuneConfig, tmp_path: Path, change: dict[str, Any]
) -> None:
    run_through(feed_of(opened(config, tmp_path)[0], config))
    other = replace(config, **change)
    run, events = opened(other, tmp_path)
    run_through(feed_of(run, other))
    assert "frozen blocks" in events.tasks


def test_other_weights_and_other_images_make_others(tmp_path: Path) -> None:
    data = write_parts(tmp_path / "data", train=3, val=2)
    config = FinetuneConfig(
        data=data, name="x", arch="resnet18", batch_size=5, image_size=32, epochs=4
    )
    run_through(feed_of(opened(config, tmp_path)[0], config))
    run, events = opened(config, tmp_path, change=_another_weight)
    run_through(feed_of(run, config))
    assert events.tasks == ["frozen blocks"] * 3
    images = sorted((data / "train" / "red").iterdir())
    images[0].write_bytes(images[1].read_bytes())
    run, events = opened(config, tmp_path)
    run_through(feed_of(run, config))
    assert events.tasks == ["frozen blocks"] * 2  # of the images that train


def test_without_room_the_images_are_used_and_a_message_says_so(
    config: FinetuneConfig, tmp_path: Path
) -> None:
    run, events = opened(config, tmp_path, budget=1000)
    feed = feed_of(run, config)
    assert feed.network is run.model
    (message,) = events.messages
    assert "computed in each epoch" in message
    assert "--cache-budget" in message
    assert not list((tmp_path).glob("features/*"))


def test_half_the_room_is_enough_for_float16(config: FinetuneConfig, tmp_path: Path) -> None:
    run, _ = opened(config, tmp_path)
    run_through(feed_of(run, config))
    size = sum(p.stat().st_size for p in tmp_path.glob("features/*/*.npy"))
    run, events = opened(config, tmp_path / "half", budget=round(0.6 * size))
    feed = feed_of(run, config)
    run_through(feed)
    assert feed.network is not run.model
    files = list((tmp_path / "half").glob("features/*/*.npy"))
    assert sum(p.stat().st_size for p in files) < 0.6 * size
    exact = replace(config, cache="float32")
    run, events = opened(exact, tmp_path / "exact", budget=round(0.6 * size))
    assert feed_of(run, exact).network is run.model
    assert "--cache-budget" in events.messages[0]


def test_what_float16_cannot_hold_is_not_kept(config: FinetuneConfig, tmp_path: Path) -> None:
    def large(model: Any) -> None:
        with torch.no_grad():
            model.layer4[1].bn2.bias.add_(1e6)

    config = replace(config, cache="float16")
    run, events = opened(config, tmp_path, change=large)
    assert feed_of(run, config).network is run.model
    assert "too large for float16" in events.messages[-1]
    assert not list((tmp_path / "features").iterdir())


def test_the_oldest_make_room(config: FinetuneConfig, tmp_path: Path) -> None:
    run_through(feed_of(opened(config, tmp_path)[0], config))
    first = set((tmp_path / "features").iterdir())
    size = sum(p.stat().st_size for p in (tmp_path / "features").glob("*/*"))
    other = replace(config, seed=1)
    run_through(feed_of(opened(other, tmp_path, budget=round(1.2 * size))[0], other))
    assert first - set((tmp_path / "features").iterdir())
    assert sum(p.stat().st_size for p in (tmp_path / "features").glob("*/*")) < 1.2 * size


def test_a_disk_that_refuses_is_named(config: FinetuneConfig, tmp_path: Path) -> None:
    run, events = opened(config, tmp_path)
    with largest_file(10_000):
        feed = feed_of(run, config)
    assert feed.network is run.model
    assert "File too large" in events.messages[-1]
    assert not list((tmp_path / "features").iterdir())


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    "change", [{"mixup": 0.2}, {"cache": "off"}, {"strategy": "full"}, {"epochs": 2}], ids=str
)
def test_where_they_do_not_help_images_are_used(
    config: FinetuneConfig, tmp_path: Path, change: dict[str, Any]
) -> None:
    config = replace(config, **change)
    run, events = opened(config, tmp_path)
    assert feed_of(run, config).network is run.model
    assert events.messages == []


@pytest.mark.parametrize(
    ("strategy", "ema", "epochs"),
    [
        ("feature-extraction", 0.0, 5),
        ("feature-extraction", 0.9, 5),
        ("partial", 0.0, 5),
        ("partial", 0.9, 5),
        # Each of its stages must be worth it.
        ("gradual", 0.9, 12),
    ],
)
def test_a_run_with_them_is_a_run(
    colours: Path, tmp_path: Path, strategy: Any, ema: float, epochs: int
) -> None:
    """The bundle's network, given the images, has the accuracy and loss that training reported."""
    config = FinetuneConfig(
        data=colours,
        name="x",
        weights="none",
        strategy=strategy,
        ema=ema,
        epochs=epochs,
        views=1,
        batch_size=8,
        image_size=32,
        workers=0,
        output=tmp_path / "models",
        runs=tmp_path / "runs",
    )
    kept = finetune(config, Recorder()).manifest
    assert list((tmp_path / "runs" / ".features").iterdir())
    images = finetune(replace(config, name="y", cache="off"), Recorder()).manifest
    assert len(kept.metrics.history) > 0
    assert kept.metrics.trainable_parameters == images.metrics.trainable_parameters
    if strategy == "feature-extraction":
        first, other = kept.metrics.history[0], images.metrics.history[0]
        assert first.train_loss == pytest.approx(other.train_loss, rel=1e-4)
        assert first.val_loss == pytest.approx(other.val_loss, rel=1e-4)
