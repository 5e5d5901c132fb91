"""What the trained blocks are fed with: images, or what the frozen blocks made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tlserve.data.check import content_hash
from tlserve.data.loading import Inputs, start_workers
from tlserve.finetune.config import FinetuneConfig
from tlserve.finetune.evaluate import on_device
from tlserve.finetune.features import (
    CannotKeepError,
    FeatureCache,
    Features,
    Shapes,
    hash_of_state,
    shapes_of,
)
from tlserve.finetune.images import keep_images
from tlserve.finetune.session import Part, Session
from tlserve.finetune.strategies import Stage, train_mode
from tlserve.finetune.versions import versions
from tlserve.zoo.split import CannotSplitError, split

Batches = Iterable[tuple[Inputs, Tensor]]


@dataclass(frozen=True)
class Feed:
    """The inputs of a stage, and the parts of the networks that take them.

    Attributes:
        train: Gives the batches of an epoch but for so many of the first.
        val: The batches of the validation images.
        network: What is trained.
        kept: What is validated: the same, or the same part of the weights' average.
    """

    train: Callable[[int, int], Batches]
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

    def epoch_of_images(number: int, start: int) -> Batches:
        session.views.epoch, session.views.start = number, start
        return session.train

    images = Feed(epoch_of_images, session.val, session.model, kept)
    views = config.views or 1
    saves = stage.opened < len(session.blocks) and views < stage.last - stage.first + 1
    # What is mixed differs from step to step, so no result comes twice.
    mixed = config.mixup or config.cutmix
    if session.cache is None or config.cache == "off" or not saves or mixed:
        _prepare_images(session, config, stage)
        return images
    try:
        return _cached(session, session.cache, config, stage, kept)
    except (CannotSplitError, CannotKeepError, OSError) as error:
        _give_up(session, error)
        train_mode(session.model, session.blocks, stage.opened)
        _prepare_images(session, config, stage)
        return images


def _prepare_images(session: Session, config: FinetuneConfig, stage: Stage) -> None:
    keep_images(session, config, stage.first)
    start_workers(session.val)


def _give_up(session: Session, error: Exception) -> None:
    session.events.end()
    session.events.message(f"Frozen blocks are computed in each epoch: {error}")


def _cached(
    session: Session, cache: FeatureCache, config: FinetuneConfig, stage: Stage, kept: nn.Module
) -> Feed:
    model, blocks = session.model, session.blocks
    # An average stays in evaluation mode: its frozen blocks compute what is kept for validation.
    evaluated = split(kept.eval(), blocks, stage.opened)
    train_mode(model, blocks, stage.opened)
    trained = split(model, blocks, stage.opened)

    val = _Results(session, cache, config, stage, "val", evaluated.frozen)
    train = _Results(session, cache, config, stage, "train", trained.frozen)
    views = range(1, (config.views or 1) + 1)
    _choose_precision(session, cache, {val: [0], train: views})
    validation = _Validation(session, val.of_view(0))

    def epoch(number: int, start: int) -> Batches:
        session.views.epoch, session.views.start = number, start
        if not train.given_up:
            try:
                return found(train.of_view(views[(number - 1) % len(views)]))
            except (CannotKeepError, OSError) as error:
                _give_up(session, error)
                train.given_up = True
        return _computed(session, trained.frozen)

    def found(features: Features) -> Iterator[tuple[Inputs, Tensor]]:
        labels = torch.tensor([sample.label for sample in session.samples])
        for batch in session.views:
            indices = [index for index, _ in batch]
            yield features.batch(indices), labels[indices]

    return Feed(epoch, validation, trained.trained, evaluated.trained)


class _Results:
    """What a frozen part makes of the images, a view at a time: found, or computed when needed."""

    def __init__(
        self,
        session: Session,
        cache: FeatureCache,
        config: FinetuneConfig,
        stage: Stage,
        part: Part,
        frozen: nn.Module,
    ) -> None:
        self.part = part
        self.dtype = np.dtype(np.float32)
        self.given_up = False
        self._session = session
        self._cache = cache
        self._frozen = frozen
        self._facts = _facts(session, config, stage, part, frozen)
        self.images: int = self._facts["images"]
        self._open: dict[int, Features] = {}

    def has(self, view: int) -> bool:
        """Tell whether a view is kept already, on each machine."""
        return self._find(self._facts | {"view": view}) is not None

    def _find(self, facts: dict[str, Any]) -> Features | None:
        found = self._cache.find(facts)
        return found if all(self._session.ranks.gather(found is not None)) else None

    def shapes(self) -> Shapes:
        """Find out how large they are."""
        session = self._session
        shapes = shapes_of(self._frozen, session.spec.crop, session.device)
        if shapes is None:
            raise CannotSplitError(
                "more than tensors passes from the frozen to the trained blocks."
            )
        return shapes

    def of_view(self, view: int) -> Features:
        """Give those of a view.

        Raises:
            CannotKeepError, OSError: They cannot be kept.
        """
        if view not in self._open:
            facts = self._facts | {"view": view}
            found = self._find(facts)
            if found is None:
                session = self._session
                found = self._cache.keep(
                    facts,
                    self.dtype,
                    self._frozen,
                    self.shapes(),
                    session.in_order(self.part, view),
                    session.device,
                    session.events,
                    session.ranks,
                )
            self._open[view] = found
        return self._open[view]


def _choose_precision(
    session: Session, cache: FeatureCache, wanted: Mapping[_Results, Sequence[int]]
) -> None:
    """Choose one that all results fit into that are missing, and say how large they will be."""
    missing = {r: [v for v in views if not r.has(v)] for r, views in wanted.items()}
    missing = {results: views for results, views in missing.items() if views}
    if not missing:
        return
    numbers = sum(r.shapes().numbers * r.images * len(views) for r, views in missing.items())
    dtypes = session.ranks.gather(cache.precision(numbers))
    # The machine with the least room decides: None before float16 before float32.
    dtype = min(dtypes, key=lambda dtype: 0 if dtype is None else dtype.itemsize)
    if dtype is None:
        raise CannotKeepError(
            f"their results would take {numbers * 4 / 1e9:.2f} GB, and {cache.folder} has room "
            f"for {cache.room() / 1e9:.2f} GB (--cache-budget)."
        )
    for results in missing:
        results.dtype = dtype
    counts = " and ".join(
        f"{len(views)} view{'s' * (len(views) > 1)} of {results.images} images"
        for results, views in missing.items()
    )
    session.events.message(
        f"Frozen blocks are computed once: {counts}, {numbers * dtype.itemsize / 1e6:.1f} MB in "
        f"{cache.folder}."
    )


def _computed(session: Session, frozen: nn.Module) -> Iterator[tuple[Inputs, Tensor]]:
    for images, labels in session.train:
        # Not inference_mode: its tensors cannot take part in the training of what is above.
        with torch.no_grad():
            results = frozen(*on_device(images, session.device))
        yield tuple(results), labels


def _facts(
    session: Session, config: FinetuneConfig, stage: Stage, part: Part, frozen: nn.Module
) -> dict[str, Any]:
    """Collect everything that the results depend on, but for the view."""
    own: dict[str, Any] = {"part": part, "opened": stage.opened}
    if part == "train":
        own |= {
            "seed": config.seed,
            "flip": config.flip,
            "min_scale": config.min_scale,
            "auto_augment": config.auto_augment,
            "short_edge": session.images["train"].short_edge,
        }
    samples = session.samples if part == "train" else session.val_samples
    return own | {
        "images": len(samples),
        "contents": content_hash(samples, session.contents),
        "architecture": config.arch,
        "frozen": hash_of_state(frozen),
        "preprocessing": session.spec.model_dump(mode="json"),
        "device": session.device.type,
        "libraries": versions(),
    }


class _Validation:
    """Batches of the validation images' results, as often as they are asked for.

    Of several processes each has every ``count``-th.
    """

    _SIZE = 256

    def __init__(self, session: Session, features: Features) -> None:
        self._features = features
        self._share = session.ranks.rank, session.ranks.count
        self._labels = torch.tensor([sample.label for sample in session.val_samples])

    def __iter__(self) -> Iterator[tuple[Inputs, Tensor]]:
        rank, ranks = self._share
        for start in range(rank * self._SIZE, len(self._labels), ranks * self._SIZE):
            labels = self._labels[start : start + self._SIZE]
            yield self._features.batch(range(start, start + len(labels))), labels
