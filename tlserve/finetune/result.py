"""The bundle of a run that is over."""

from __future__ import annotations

import datetime
from pathlib import Path

import torch

from tlserve.bundle import Bundle, stage
from tlserve.bundle.files import writing_to
from tlserve.bundle.manifest import (
    Calibration,
    Dataset,
    Head,
    Metrics,
    Preprocessing,
    Provenance,
    Selection,
)
from tlserve.bundle.reading import WEIGHTS
from tlserve.data.check import CheckedFolder, fingerprint
from tlserve.data.split import Split, write_split
from tlserve.finetune.config import FinetuneConfig
from tlserve.finetune.golden import write_golden
from tlserve.finetune.trained import Trained
from tlserve.finetune.versions import versions
from tlserve.runtime.eager import TorchBackend, rebuild
from tlserve.zoo.architectures import head_parameters
from tlserve.zoo.weights import Pretrained

_SPLIT = "split.json"


def write_bundle(
    target: Path,
    config: FinetuneConfig,
    checked: CheckedFolder,
    parts: Split,
    spec: Preprocessing,
    pretrained: Pretrained,
    trained: Trained,
    selection: Selection | None,
) -> Bundle:
    """Write the best checkpoint and what is known of it, whole or not at all.

    Args:
        target: The bundle's place.
        config: The settings as they were resolved.
        checked: The images.
        parts: Which trained and which validated.
        spec: The preprocessing.
        pretrained: What training began with.
        trained: What it led to.
        selection: What ``auto`` chose, and why.

    Raises:
        StorageError: The disk refused.
    """
    classes = checked.folder.classes
    calibration = Calibration()
    fields = {
        "name": config.name,
        "architecture": config.arch,
        "classes": classes,
        "preprocessing": spec,
        "head": Head(parameters=head_parameters(config.arch), num_classes=len(classes)),
        "calibration": calibration,
        "training": config.record(),
        "selection": selection,
        "metrics": Metrics(
            val_accuracy=trained.best.accuracy,
            val_loss=trained.best.loss,
            val_correct=trained.best.correct,
            val_images=trained.best.images,
            best_epoch=trained.best_epoch,
            history=trained.history,
            seconds=round(trained.seconds, 3),
            trainable_parameters=trained.trainable,
            optimizer_bytes=trained.optimizer_bytes,
        ),
        "provenance": Provenance(
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            seed=config.seed,
            dataset=Dataset(
                path=str(config.data.resolve()),
                fingerprint=fingerprint(checked.sha256),
                train_images=len(parts.train),
                val_images=len(parts.val),
                skipped=tuple(problem.path for problem in checked.problems),
            ),
            pretrained=pretrained.source,
            pretrained_sha256=pretrained.sha256,
            versions=versions(),
        ),
    }
    with stage(target, overwrite=config.overwrite) as staged:
        with writing_to(target):
            staged.fresh(WEIGHTS).write_bytes(trained.checkpoint.read_bytes())
            staged.add(WEIGHTS, "weights", precision="float32")
            write_split(staged.fresh(_SPLIT), parts, checked.sha256)
            staged.add(_SPLIT, "split")
            # Recorded is the model that the bundle gives back, not the one in memory.
            best = rebuild(staged.write_manifest(staged.manifest(**fields)))
            # As many threads as training had: the number is the process's, and another one would
            # change the sums of whatever is trained next.
            backend = TorchBackend(best, torch.device("cpu"), torch.get_num_threads())
            write_golden(
                staged, config.data, parts.val, spec, backend, classes, calibration.temperature
            )
        return staged.commit(staged.manifest(**fields))
