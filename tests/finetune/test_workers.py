"""How many processes load the images."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.finetune.configs import short_run
from tests.finetune.test_features import Recorder
from tests.networks import filled
from tlserve.data.folder import scan
from tlserve.data.loading import Augmentation, Batch, ImageDataset, View
from tlserve.finetune.config import FinetuneConfig
from tlserve.finetune.run import finetune
from tlserve.finetune.workers import choose_workers, workers_for
from tlserve.runtime.processors import available_processors
from tlserve.zoo.presets import preset, with_image_size

CPU = torch.device("cpu")
SPEC = with_image_size(preset("resnet18"), 32)


class Slow(ImageDataset):
    """Takes its time, as large photographs do."""

    seconds = 0.02

    def __getitem__(self, view: View) -> Batch:
        time.sleep(self.seconds)
        return super().__getitem__(view)


@pytest.fixture
def config(colours: Path, tmp_path: Path) -> FinetuneConfig:
    return short_run(colours, tmp_path, batch_size=8, workers=None)


def dataset(config: FinetuneConfig, kind: type[ImageDataset] = Slow) -> ImageDataset:
    folder = scan(config.data)
    augmentation = Augmentation(SPEC, flip=True, min_scale=0.35)
    return kind(folder.root, folder.train, SPEC, augmentation)


@pytest.mark.parametrize(
    ("load", "train", "expected"),
    [
        (0.001, 0.1, 0),  # it hardly shows
        (0.01, 0.1, 1),
        (0.004, 0.004, 2),
        (0.004, 0.001, 5),
        (0.004, 0.0001, 8),
        (10.0, 0.0, 8),
    ],
)
def test_so_many_that_the_network_does_not_wait(load: float, train: float, expected: int) -> None:
    assert workers_for(load, max(train, 1e-9), 8) == expected


def test_no_process_is_started_where_there_is_little_to_load(config: FinetuneConfig) -> None:
    events = Recorder()
    model = filled("resnet18", 3, 32)
    assert choose_workers(dataset(config, ImageDataset), model, config, CPU, events, 2) == 0
    (message,) = events.messages
    assert "by the training process itself: each takes" in message


def test_slow_images_get_processes_in_a_short_time_and_nothing_changes(
    config: FinetuneConfig,
) -> None:
    config = replace(config, epochs=1000)
    model = filled("resnet18", 3, 32).train()
    model.get_submodule("layer1").eval()
    modes = [module.training for module in model.modules()]
    state = {k: v.clone() for k, v in model.state_dict().items()}
    generator = torch.get_rng_state()
    events = Recorder()
    started = time.monotonic()
    chosen = choose_workers(dataset(config), model, config, CPU, events, available_processors())
    assert time.monotonic() - started < 20, "on a busy machine; it is 2 seconds on a free one"
    assert (chosen > 0) == (available_processors() > 1)
    (message,) = events.messages
    assert "ms to load and" in message or available_processors() == 1
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), generator)


def test_the_choice_changes_nothing_that_is_trained(config: FinetuneConfig) -> None:
    events = Recorder()
    chosen = finetune(config, events)
    given = finetune(replace(config, name="y", workers=1), Recorder())
    assert any("Images are loaded by" in message for message in events.messages)
    assert chosen.manifest.version == given.manifest.version
