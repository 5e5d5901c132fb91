"""What every phase of a run works on: the network, the data, the device, the folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from tlserve.bundle.manifest import Preprocessing
from tlserve.data.folder import Sample
from tlserve.data.loading import Augmentation, Batch, ImageDataset, ViewBatches, loader
from tlserve.data.split import Split
from tlserve.finetune.config import FinetuneConfig
from tlserve.finetune.evaluate import MEMORY_FORMAT
from tlserve.finetune.events import Events
from tlserve.finetune.features import FeatureCache
from tlserve.finetune.objective import class_weights
from tlserve.finetune.run_folder import RunFolder
from tlserve.zoo.architectures import head_parameters
from tlserve.zoo.blocks import Block, ordered_blocks

Part = Literal["train", "val"]

_MOST_PROBED = 50_000


@dataclass(frozen=True)
class Session:
    """A run in progress.

    Attributes:
        model: The network, on ``device``, its images channels last.
        arch: Its architecture.
        blocks: Its blocks, from stem to head.
        head: The names of the head's parameters.
        num_classes: The number of its outputs.
        spec: The preprocessing.
        samples: The images that train.
        val_samples: The images that validate.
        contents: The SHA-256 of each image, by its path.
        train: Batches of augmented views of them; ``views`` is its sampler.
        views: Told the epoch, so that each has views of its own.
        plain: Batches of the same images in their order, not augmented.
        val: Batches of the validation images.
        in_order: Gives batches of the images of a part, ``train`` or ``val``, in their order; those
            that train as the views that an epoch has of them.
        cache: For what frozen blocks make of the images.
        pretrained: Whether the network began with pretrained weights.
        device: Where to train.
        run: The folder of the run.
        events: Told what happens.
        deadline: When to stop, on ``time.monotonic``'s clock; ``None``: never.
    """

    model: nn.Module
    arch: str
    blocks: tuple[Block, ...]
    head: tuple[str, ...]
    num_classes: int
    spec: Preprocessing
    samples: Sequence[Sample]
    val_samples: Sequence[Sample]
    contents: Mapping[str, str]
    train: DataLoader[Batch]
    views: ViewBatches
    plain: DataLoader[Batch]
    val: DataLoader[Batch]
    in_order: Callable[[Part, int], DataLoader[Batch]]
    cache: FeatureCache | None
    pretrained: bool
    device: torch.device
    run: RunFolder
    events: Events
    deadline: float | None = None

    def time_is_up(self, ahead: float = 0.0) -> bool:
        """Tell whether to stop, with so many seconds of work ahead."""
        return self.deadline is not None and time.monotonic() + ahead > self.deadline


def open_session(
    model: nn.Module,
    config: FinetuneConfig,
    parts: Split,
    contents: Mapping[str, str],
    spec: Preprocessing,
    workers: int,
    device: torch.device,
    run: RunFolder,
    events: Events,
    *,
    pretrained: bool,
    cache: FeatureCache | None = None,
    deadline: float | None = None,
) -> Session:
    """Put a network on its device and its images into loaders.

    Args:
        model: With its backbone loaded.
        config: The settings.
        parts: Which images train and which validate.
        contents: The SHA-256 of each image, by its path.
        spec: The preprocessing.
        workers: Processes a loader.
        device: Where to train.
        run: The folder for what is kept meanwhile.
        events: Told what happens.
        pretrained: Whether the backbone has pretrained weights.
        cache: For what frozen blocks make of the images.
        deadline: When to stop, on ``time.monotonic``'s clock.
    """
    augmentation = Augmentation(
        spec, flip=config.flip, min_scale=config.min_scale, policy=config.auto_augment
    )
    head = head_parameters(config.arch)
    num_classes = model.get_parameter(head[-1]).shape[0]
    weights = None
    if config.balance == "sampler":
        each = class_weights(parts.train, num_classes).double().numpy()
        weights = each[[sample.label for sample in parts.train]]

    def batches(
        samples: Sequence[Sample], views: ViewBatches, augment: Augmentation | None = None
    ) -> DataLoader[Batch]:
        return loader(ImageDataset(config.data, samples, spec, augment), views, workers)

    def plain(samples: Sequence[Sample]) -> DataLoader[Batch]:
        return batches(samples, ordered(samples))

    def ordered(samples: Sequence[Sample]) -> ViewBatches:
        return ViewBatches(len(samples), config.batch_size, seed=config.seed, shuffle=False)

    def in_order(part: Part, epoch: int) -> DataLoader[Batch]:
        if part == "val":
            return plain(parts.val)
        views = ordered(parts.train)
        views.epoch = epoch
        return batches(parts.train, views, augmentation)

    views = ViewBatches(
        len(parts.train), config.batch_size, seed=config.seed, shuffle=True, weights=weights
    )
    return Session(
        model=model.to(device, memory_format=MEMORY_FORMAT),  # type: ignore[call-overload]
        arch=config.arch,
        blocks=ordered_blocks(model, head),
        head=head,
        num_classes=num_classes,
        spec=spec,
        samples=parts.train,
        val_samples=parts.val,
        contents=contents,
        train=batches(parts.train, views, augmentation),
        views=views,
        plain=plain(_probe_samples(parts.train, config.seed)),
        val=plain(parts.val),
        in_order=in_order,
        cache=cache,
        pretrained=pretrained,
        device=device,
        run=run,
        events=events,
        deadline=deadline,
    )


def _probe_samples(samples: Sequence[Sample], seed: int) -> Sequence[Sample]:
    """Choose images at random, where there are more than a linear probe needs."""
    if len(samples) <= _MOST_PROBED:
        return samples
    chosen = np.random.default_rng(seed).choice(len(samples), _MOST_PROBED, replace=False)
    return [samples[index] for index in sorted(chosen)]
