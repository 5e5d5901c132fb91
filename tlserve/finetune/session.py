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
from tlserve.data.disk_cache import DiskCache
from tlserve.data.folder import Sample
from tlserve.data.loading import Augmentation, Batch, ImageDataset, ViewBatches, loader
from tlserve.data.reduce import sufficient_edge
from tlserve.data.split import Split
from tlserve.finetune.batch_size import evaluation_batch_size
from tlserve.finetune.config import FinetuneConfig
from tlserve.finetune.evaluate import MEMORY_FORMAT
from tlserve.finetune.events import Events
from tlserve.finetune.features import FeatureCache
from tlserve.finetune.objective import class_weights
from tlserve.finetune.ranks import ALONE, Ranks
from tlserve.finetune.run_folder import RunFolder
from tlserve.finetune.workers import choose_workers
from tlserve.runtime.processors import available_processors
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
        val: Batches of the validation images; of several processes, this one's.
        images: The images that the loaders of a part load.
        in_order: Gives batches of the images of a part, ``train`` or ``val``, in their order; those
            that train as the views that an epoch has of them. Of several processes on a machine,
            this one's.
        cache: For what frozen blocks make of the images.
        image_cache: For decoded images.
        pretrained: Whether the network began with pretrained weights.
        device: Where to train.
        run: The folder of the run.
        events: Told what happens.
        deadline: When to stop, on ``time.monotonic``'s clock; ``None``: never.
        ranks: The processes of the run.
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
    images: Mapping[Part, ImageDataset]
    in_order: Callable[[Part, int], DataLoader[Batch]]
    cache: FeatureCache | None
    image_cache: DiskCache | None
    pretrained: bool
    device: torch.device
    run: RunFolder
    events: Events
    deadline: float | None = None
    ranks: Ranks = ALONE

    def time_is_up(self, ahead: float = 0.0) -> bool:
        """Tell whether to stop, with so many seconds of work ahead."""
        return self.deadline is not None and time.monotonic() + ahead > self.deadline


def open_session(
    model: nn.Module,
    config: FinetuneConfig,
    parts: Split,
    contents: Mapping[str, str],
    spec: Preprocessing,
    device: torch.device,
    run: RunFolder,
    events: Events,
    *,
    pretrained: bool,
    cache: FeatureCache | None = None,
    image_cache: DiskCache | None = None,
    deadline: float | None = None,
    ranks: Ranks = ALONE,
) -> Session:
    """Put a network on its device and its images into loaders.

    Args:
        model: With its backbone loaded.
        config: The settings; the batch size is a number.
        parts: Which images train and which validate.
        contents: The SHA-256 of each image, by its path.
        spec: The preprocessing.
        device: Where to train.
        run: The folder for what is kept meanwhile.
        events: Told what happens.
        pretrained: Whether the backbone has pretrained weights.
        cache: For what frozen blocks make of the images.
        image_cache: For decoded images.
        deadline: When to stop, on ``time.monotonic``'s clock.
        ranks: The processes that share each batch.
    """
    assert isinstance(config.batch_size, int)  # noqa: S101 - found where it was to be found
    batch_size = config.batch_size
    model = model.to(device, memory_format=MEMORY_FORMAT)  # type: ignore[call-overload]
    augmentation = Augmentation(
        spec, flip=config.flip, min_scale=config.min_scale, policy=config.auto_augment
    )
    head = head_parameters(config.arch)
    num_classes = model.get_parameter(head[-1]).shape[0]
    weights = None
    if config.balance == "sampler":
        each = class_weights(parts.train, num_classes).double().numpy()
        weights = each[[sample.label for sample in parts.train]]

    short_edge = sufficient_edge(spec, config.min_scale)
    images: dict[Part, ImageDataset] = {
        "train": ImageDataset(
            config.data,
            parts.train,
            spec,
            augmentation,
            short_edge=short_edge if config.image_cache == "reduced" else None,
        ),
        "val": ImageDataset(config.data, parts.val, spec),
    }
    workers = config.workers
    if workers is None:
        processors = max(1, available_processors() // ranks.local_count)
        workers = choose_workers(images["train"], model, config, device, events, processors)

    def ordered(
        dataset: ImageDataset, share: tuple[int, int] = (0, 1), epoch: int = 0
    ) -> DataLoader[Batch]:
        size = evaluation_batch_size(batch_size, device)
        views = ViewBatches(len(dataset), size, seed=config.seed, shuffle=False, share=share)
        views.epoch = epoch
        return loader(dataset, views, workers)

    def in_order(part: Part, epoch: int) -> DataLoader[Batch]:
        return ordered(images[part], (ranks.local_rank, ranks.local_count), epoch)

    among_all = (ranks.rank, ranks.count)
    views = ViewBatches(
        len(parts.train),
        batch_size,
        seed=config.seed,
        shuffle=True,
        weights=weights,
        share=among_all,
    )
    return Session(
        model=model,
        arch=config.arch,
        blocks=ordered_blocks(model, head),
        head=head,
        num_classes=num_classes,
        spec=spec,
        samples=parts.train,
        val_samples=parts.val,
        contents=contents,
        train=loader(images["train"], views, workers),
        views=views,
        plain=ordered(ImageDataset(config.data, _probe_samples(parts.train, config.seed), spec)),
        val=ordered(images["val"], among_all),
        images=images,
        in_order=in_order,
        cache=cache,
        image_cache=image_cache,
        pretrained=pretrained,
        device=device,
        run=run,
        events=events,
        deadline=deadline,
        ranks=ranks,
    )


def _probe_samples(samples: Sequence[Sample], seed: int) -> Sequence[Sample]:
    """Choose images at random, where there are more than a linear probe needs."""
    if len(samples) <= _MOST_PROBED:
        return samples
    chosen = np.random.default_rng(seed).choice(len(samples), _MOST_PROBED, replace=False)
    return [samples[index] for index in sorted(chosen)]
