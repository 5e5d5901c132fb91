"""Keeping decoded images, so that they are decoded once and not in each epoch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import PIL

from tlserve.data.check import content_hash
from tlserve.data.disk_cache import DiskCache
from tlserve.data.image_cache import KeptImages, write_images
from tlserve.data.loading import ImageDataset
from tlserve.data.threads import in_threads
from tlserve.finetune.config import FinetuneConfig
from tlserve.finetune.events import Events
from tlserve.finetune.session import Session
from tlserve.runtime.processors import available_processors

_FORMAT = 1


def keep_images(session: Session, config: FinetuneConfig, first: int) -> None:
    """Let the images of a run be decoded once, if they will be read in more than one epoch.

    What an epoch is given does not depend on whether they are kept.

    Args:
        session: Its loaders have not been asked for batches yet.
        config: Whether they are to be kept.
        first: The epoch, from 1, in which they are read first.
    """
    ranks = session.ranks
    if ranks.local_rank == 0:
        _find_or_keep(session, config, first)
    ranks.wait()
    if ranks.local_rank:
        # What the first process of the machine has kept meanwhile.
        _find_or_keep(session, config, config.epochs)


def _find_or_keep(session: Session, config: FinetuneConfig, first: int) -> None:
    cache = session.image_cache
    if cache is None or config.image_cache == "off":
        return
    missing: dict[ImageDataset, dict[str, Any]] = {}
    for dataset in session.images.values():
        if dataset.kept is None:
            facts = _facts(session.contents, dataset)
            place = cache.find(facts)
            if place is None:
                missing[dataset] = facts
            else:
                dataset.kept = KeptImages(place)
    if not missing or first >= config.epochs:
        return
    try:
        _keep(cache, missing, config, session.events)
    except OSError as error:
        session.events.end()
        session.events.message(
            f"Images are decoded in each epoch: {error.strerror or error} ({cache.folder})."
        )


def _keep(
    cache: DiskCache,
    missing: Mapping[ImageDataset, dict[str, Any]],
    config: FinetuneConfig,
    events: Events,
) -> None:
    threads = available_processors()
    sizes = {d: sum(in_threads(d.fixed_bytes, len(d), threads)) for d in missing}
    total, room = sum(sizes.values()), cache.room()
    if total > room:
        smaller = "" if config.image_cache == "reduced" else "; --image-cache reduced needs less"
        events.message(
            f"Images are decoded in each epoch: decoded they would take {total / 1e9:.2f} GB, and "
            f"{cache.folder} has room for {room / 1e9:.2f} GB (--cache-budget){smaller}."
        )
        return
    count = sum(map(len, missing))
    events.message(
        f"Images are decoded once: {count} images, {total / 1e6:.1f} MB in {cache.folder}."
    )
    events.begin("decoding images", count)
    for dataset, facts in missing.items():

        def fill(folder: Path, dataset: ImageDataset = dataset) -> None:
            write_images(
                folder, len(dataset), dataset.fixed, threads=threads, advance=events.advance
            )

        dataset.kept = KeptImages(cache.keep(facts, sizes[dataset], fill))
    events.end()


def _facts(contents: Mapping[str, str], dataset: ImageDataset) -> dict[str, Any]:
    """Collect everything that the kept images depend on."""
    # Images that are only decoded depend on the decoding, and on the target's size if that is
    # what a JPEG draft follows.
    needed = {"decoding"} if dataset.augmentation is not None else {"interpolation", "crop"}
    if dataset.augmentation is None or dataset.spec.decoding.jpeg_draft is not None:
        needed |= {"resize", "decoding"}
    return {
        "format": _FORMAT,
        "images": len(dataset),
        "contents": content_hash(dataset.samples, contents),
        "preprocessing": dataset.spec.model_dump(mode="json", include=needed),
        "short_edge": dataset.short_edge,
        "pillow": PIL.__version__,
    }
