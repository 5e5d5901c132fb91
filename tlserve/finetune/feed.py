"""What the trained blocks are fed with: images, or what the frozen blocks made of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tlserve.data.folder import Sample
from tlserve.data.loading import Inputs
from tlserve.finetune.config import FinetuneConfig
from tlserve.finetune.features import (
    CannotKeepError,
    Features,
    Shapes,
    hash_of_state,
    shapes_of,
)
from tlserve.finetune.session import Part, Session
from tlserve.finetune.strategies import Stage, train_mode
from tlserve.finetune.versions import versions
from tlserve.zoo.split import CannotSplitError, Split, split

Batches = Iterable[tuple[Inputs, Tensor]]


@dataclass(frozen=True)
class Feed:
    """The inputs of a stage, and the parts of the networks that take them.

    Attributes:
        train: Gives the batches of an epoch.
        val: The batches of the validation images.
        network: What is trained.
        kept: What is validated: the same, or the same part of the weights' average.
    """

    train: Callable[[int], Batches]
    val: Batches
    network: nn.Module
    kept: nn.Module


def make_feed(session: Session, config: FinetuneConfig, stage: Stage, kept: nn.Module) -> Feed:
    """Choose between images and kept results for a stage.

    Results are kept where that saves work: where the stage has more epochs than an image has views.

    Args:
        session: Its network is in the mode in which it is trained.
        config: Resolved settings.
        stage: For these epochs.
        kept: The network, or its average.
    """

    def epoch_of_images(number: int) -> Batches:
        session.views.epoch = number
        return session.train

    images = Feed(epoch_of_images, session.val, session.model, kept)
    views = config.views or 1
    saves = stage.opened < len(session.blocks) and views < stage.last - stage.first + 1
    if session.cache is None or config.cache == "off" or not saves:
        return images
    if config.mixup or config.cutmix:
        # What is mixed differs from step to step, so no result comes twice.
        return images
    try:
        return _cached(session, config, stage, kept, views)
    except (CannotSplitError, CannotKeepError, OSError) as error:
        session.events.end()
        session.events.message(f"Frozen blocks are computed in each epoch: {error}")
        train_mode(session.model, session.blocks, stage.opened)
        return images


def _cached(
    session: Session, config: FinetuneConfig, stage: Stage, kept: nn.Module, views: int
) -> Feed:
    model, blocks = session.model, session.blocks
    # An average stays in evaluation mode: its frozen blocks compute what is kept for validation.
    evaluated = split(kept.eval(), blocks, stage.opened)
    train_mode(model, blocks, stage.opened)
    trained = split(model, blocks, stage.opened)

    parts: tuple[tuple[Part, Split, int], ...]
    parts = (("train", trained, views), ("val", evaluated, 1))
    shapes = {name: _shapes(session, part) for name, part, _ in parts}
    counts = {"train": len(session.samples), "val": len(session.val_samples)}
    numbers = sum(shapes[name].numbers * counts[name] * times for name, _, times in parts)
    features: dict[str, Features] = {}
    facts = {name: _facts(session, config, stage, name, part, n) for name, part, n in parts}
    assert session.cache is not None  # noqa: S101 - or there would be no reason to be here
    for name, part, times in parts:
        found = session.cache.find(facts[name])
        if found is None:
            found = _computed(session, facts[name], name, part, shapes[name], times, numbers)
        features[name] = found

    def epoch(number: int) -> Iterator[tuple[Inputs, Tensor]]:
        session.views.epoch = number
        labels = torch.tensor([sample.label for sample in session.samples])
        for batch in session.views:
            indices = [index for index, _ in batch]
            yield features["train"].batch((number - 1) % views, indices), labels[indices]

    return Feed(epoch, _Validation(session, features["val"]), trained.trained, evaluated.trained)


def _shapes(session: Session, part: Split) -> Shapes:
    images, _ = next(iter(session.val))
    shapes = shapes_of(part.frozen, images[:2], session.device)
    if shapes is None:
        raise CannotSplitError("more than tensors passes from the frozen to the trained blocks.")
    return shapes


def _computed(
    session: Session,
    facts: dict[str, Any],
    name: Part,
    part: Split,
    shapes: Shapes,
    views: int,
    numbers: int,
) -> Features:
    cache = session.cache
    assert cache is not None  # noqa: S101 - the caller has one
    dtype = cache.precision(numbers)
    if dtype is None:
        raise CannotKeepError(
            f"their results would take {numbers * 4 / 1e9:.2f} GB, and {cache.folder} has room for "
            f"{cache.room() / 1e9:.2f} GB (--cache-budget)."
        )
    session.events.message(
        f"Frozen blocks are computed once: {views} view{'s' * (views > 1)} of the {name} images, "
        f"{shapes.numbers * facts['images'] * views * dtype.itemsize / 1e6:.1f} MB in "
        f"{cache.folder}."
    )
    batches = [session.in_order(name, view + 1) for view in range(views)]
    return cache.keep(facts, dtype, part.frozen, shapes, batches, session.device, session.events)


def _facts(
    session: Session, config: FinetuneConfig, stage: Stage, name: str, part: Split, views: int
) -> dict[str, Any]:
    """Collect everything that the results depend on."""
    own: dict[str, Any] = {"part": name, "views": views, "opened": stage.opened}
    if name == "train":
        own |= {
            "seed": config.seed,
            "flip": config.flip,
            "min_scale": config.min_scale,
            "auto_augment": config.auto_augment,
        }
    samples = session.samples if name == "train" else session.val_samples
    return own | {
        "images": len(samples),
        "contents": _hash_of_samples(session, samples),
        "architecture": config.arch,
        "frozen": hash_of_state(part.frozen),
        "preprocessing": session.spec.model_dump(mode="json"),
        "device": session.device.type,
        "libraries": versions(),
    }


def _hash_of_samples(session: Session, samples: Sequence[Sample]) -> str:
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(f"{session.contents[sample.path]}\n".encode())
    return digest.hexdigest()


class _Validation:
    """Batches of the validation images' results, as often as they are asked for."""

    _SIZE = 256

    def __init__(self, session: Session, features: Features) -> None:
        self._features = features
        self._labels = torch.tensor([sample.label for sample in session.val_samples])

    def __iter__(self) -> Iterator[tuple[Inputs, Tensor]]:
        for start in range(0, len(self._labels), self._SIZE):
            labels = self._labels[start : start + self._SIZE]
            yield self._features.batch(0, range(start, start + len(labels))), labels
