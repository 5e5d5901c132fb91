"""Sessions for tests: a network on a few real images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from tlserve.bundle.files import sha256_of
from tlserve.data.disk_cache import DiskCache
from tlserve.data.folder import scan
from tlserve.data.split import split
from tlserve.finetune.config import FinetuneConfig
from tlserve.finetune.events import Events
from tlserve.finetune.features import FeatureCache
from tlserve.finetune.run_folder import RunFolder
from tlserve.finetune.session import Session, open_session
from tlserve.zoo.presets import preset, with_image_size


def session(
    config: FinetuneConfig,
    model: nn.Module,
    run: Path,
    *,
    events: Events | None = None,
    pretrained: bool = True,
    cache: FeatureCache | None = None,
    image_cache: DiskCache | None = None,
) -> Session:
    """Open a session on the CPU, in this process."""
    spec = with_image_size(preset(config.arch), config.image_size or 32)
    parts = split(scan(config.data), config.val_fraction, config.seed)
    return open_session(
        model,
        replace(config, workers=0),
        parts,
        {s.path: sha256_of(config.data / s.path) for s in (*parts.train, *parts.val)},
        spec,
        torch.device("cpu"),
        RunFolder(run),
        events or Events(),
        pretrained=pretrained,
        cache=cache,
        image_cache=image_cache,
    )
