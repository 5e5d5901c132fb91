"""How many processes load the images, by measuring what there is for them to do."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch
from torch import nn

from tlserve.data.loading import ImageDataset
from tlserve.finetune.config import FinetuneConfig
from tlserve.finetune.evaluate import on_device
from tlserve.finetune.events import Events
from tlserve.finetune.precision import MixedPrecision

_MOST_SECONDS = 1.0
"""After so long a measurement ends with what it has; there are two of them."""

_IMAGES, _PASSES = 32, 3

_IMAGES_ON_CPU = 4
"""In a forward pass that is timed on the CPU, where more take longer and not less each."""

_NOT_WORTH_IT = 5.0
"""Seconds of loading in the whole run below which no process is started for it."""

_NEGLIGIBLE = 0.05
"""Likewise the share of the time of training."""

_RESERVE = 1.25
"""Workers are to load faster than the network trains: images differ, and so do their moments."""

_BACKWARD = 3
"""A training step costs about three forward passes: forward, and backward as two."""


def choose_workers(
    dataset: ImageDataset,
    model: nn.Module,
    config: FinetuneConfig,
    device: torch.device,
    events: Events,
    processors: int,
) -> int:
    """Measure how long an image takes to load and to train on, and choose; takes 2 seconds at most.

    What is trained does not depend on the number. The network is not changed.

    Args:
        dataset: What is loaded to train.
        model: The network, on its device.
        config: The settings; the batch size is a number.
        device: Where it is.
        events: Told the number and why.
        processors: How many it may use.
    """
    load = _seconds_to_load(dataset)
    if load * len(dataset) * _times_read(config) < _NOT_WORTH_IT or processors == 1:
        events.message(
            f"Images are loaded by the training process itself: each takes {load * 1e3:.1f} ms."
        )
        return 0
    train = _seconds_to_train(model, dataset, config, device)
    chosen = workers_for(load, train, processors)
    who = f"{chosen} worker processes" if chosen > 1 else "a worker process"
    events.message(
        f"Images are loaded by {who if chosen else 'the training process itself'}: each takes "
        f"{load * 1e3:.1f} ms to load and {train * 1e3:.1f} ms to train on."
    )
    return chosen


def workers_for(load: float, train: float, processors: int) -> int:
    """Give the number of processes that load as fast as the network trains.

    Args:
        load: Seconds that one process takes to load an image.
        train: Seconds that the network takes for an image.
        processors: The most.
    """
    if load < _NEGLIGIBLE * train:
        return 0
    return max(1, min(math.ceil(_RESERVE * load / train), processors))


def _times_read(config: FinetuneConfig) -> int:
    """Tell how often an image is loaded, where frozen blocks can be computed once."""
    if config.strategy in ("feature-extraction", "partial") and config.cache != "off":
        return min(config.epochs, config.views or config.epochs)
    return config.epochs


def _seconds_to_load(dataset: ImageDataset) -> float:
    # From all over the data set, for the images of a class may be alike in size.
    step = max(1, len(dataset) // _IMAGES)
    views = [(index, 0) for index in range(0, len(dataset), step)][:_IMAGES]
    return _seconds(lambda number: dataset[views[number]], len(views))


def _seconds_to_train(
    model: nn.Module, dataset: ImageDataset, config: FinetuneConfig, device: torch.device
) -> float:
    """Estimate it from forward passes, for frozen blocks have no backward pass."""
    assert isinstance(config.batch_size, int)  # noqa: S101 - found where it was to be found
    size = config.batch_size if device.type == "cuda" else min(config.batch_size, _IMAGES_ON_CPU)
    images = on_device(torch.zeros(size, 3, *dataset.spec.crop), device)
    precision = MixedPrecision(config.precision, device)
    modes = {module: module.training for module in model.modules()}

    def forward(_number: int) -> None:
        with torch.inference_mode(), precision.autocast():
            model(*images)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    # In evaluation mode nothing is drawn at random, and batch normalisation learns nothing.
    model.eval()
    first = _seconds(forward, 1)
    # The first pass sets things up; where it was long, that no longer matters.
    seconds = first if first > _MOST_SECONDS else _seconds(forward, _PASSES)
    for module, training in modes.items():
        module.training = training
    all_blocks = config.strategy in ("full", "discriminative")
    return seconds / size * (_BACKWARD if all_blocks else 1)


def _seconds(work: Callable[[int], object], times: int) -> float:
    """Give the mean seconds of a call, for as many of the calls as there is time for."""
    started = time.perf_counter()
    for number in range(times):
        work(number)
        elapsed = time.perf_counter() - started
        if elapsed > _MOST_SECONDS:
            break
    return elapsed / (number + 1)
