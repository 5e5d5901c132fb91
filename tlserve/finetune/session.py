"""What every phase of a run works on: the network, the data, the device, the folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

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
from tlserve.finetune.objective import class_weights
from tlserve.zoo.architectures import head_parameters
from tlserve.zoo.blocks import Block, ordered_blocks

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
        samples: The images that train.
        train: Batches of augmented views of them; ``views`` is its sampler.
        views: Told the epoch, so that each has views of its own.
        plain: Batches of the same images in their order, not augmented.
        val: Batches of the validation images.
        pretrained: Whether the network began with pretrained weights.
        device: Where to train.
        run: The folder for ``best.safetensors`` and ``history.csv``.
        events: Told what happens.
    """

    model: nn.Module
    arch: str
    blocks: tuple[Block, ...]
    head: tuple[str, ...]
    num_classes: int
    samples: Sequence[Sample]
    train: DataLoader[Batch]
    views: ViewBatches
    plain: DataLoader[Batch]
    val: DataLoader[Batch]
    pretrained: bool
    device: torch.device
    run: Path
    events: Events


def open_session(
    model: nn.Module,
    config: FinetuneConfig,
    parts: Split,
    spec: Preprocessing,
    workers: int,
    device: torch.device,
    run: Path,
    events: Events,
    *,
    pretrained: bool,
) -> Session:
    """Put a network on its device and its images into loaders.

    Args:
        model: With its backbone loaded.
        config: The settings.
        parts: Which images train and which validate.
        spec: The preprocessing.
        workers: Processes a loader.
        device: Where to train.
        run: The folder for what is kept meanwhile.
        events: Told what happens.
        pretrained: Whether the backbone has pretrained weights.
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

    def in_order(samples: Sequence[Sample]) -> DataLoader[Batch]:
        plain = ViewBatches(len(samples), config.batch_size, seed=config.seed, shuffle=False)
        return batches(samples, plain)

    views = ViewBatches(
        len(parts.train), config.batch_size, seed=config.seed, shuffle=True, weights=weights
    )
    return Session(
        model=model.to(device, memory_format=MEMORY_FORMAT),  # type: ignore[call-overload]
        arch=config.arch,
        blocks=ordered_blocks(model, head),
        head=head,
        num_classes=num_classes,
        samples=parts.train,
        train=batches(parts.train, views, augmentation),
        views=views,
        plain=in_order(_probe_samples(parts.train, config.seed)),
        val=in_order(parts.val),
        pretrained=pretrained,
        device=device,
        run=run,
        events=events,
    )


def _probe_samples(samples: Sequence[Sample], seed: int) -> Sequence[Sample]:
    """Choose images at random, where there are more than a linear probe needs."""
    if len(samples) <= _MOST_PROBED:
        return samples
    chosen = np.random.default_rng(seed).choice(len(samples), _MOST_PROBED, replace=False)
    return [samples[index] for index in sorted(chosen)]
