"""Model bundles for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.images import encoded, noise
from tlserve.bundle import Bundle, stage
from tlserve.bundle.manifest import Dataset, Head, Metrics, Preprocessing, Provenance

SPEC = Preprocessing(
    resize=(40,),
    interpolation="bilinear",
    crop=(32, 32),
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
)


def description(classes: tuple[str, ...] = ("ant", "bee"), **fields: Any) -> dict[str, Any]:
    """The fields of a manifest that a trainer would give."""
    return {
        "name": "insects",
        "architecture": "mobilenet_v3_small",
        "classes": classes,
        "preprocessing": SPEC,
        "head": Head(parameters=("classifier.3.weight",), num_classes=len(classes)),
        "training": {"epochs": 3, "lr": 0.001, "strategy": "full", "amp": False, "note": None},
        "metrics": Metrics(
            val_accuracy=0.5, val_loss=0.7, val_correct=1, val_images=2, best_epoch=1
        ),
        "provenance": Provenance(
            created="2026-01-01T00:00:00Z",
            seed=0,
            dataset=Dataset(path="data", fingerprint="0" * 64, train_images=4, val_images=2),
            pretrained="none",
            versions={"tlserve": "0.1.0"},
        ),
    } | fields


def write_plain(target: Path, content: bytes = b"weights", *, overwrite: bool = False) -> Bundle:
    """Write a bundle whose weights are any bytes, with a second file that repeats them."""
    with stage(target, overwrite=overwrite) as staged:
        staged.fresh("weights.safetensors").write_bytes(content)
        staged.add("weights.safetensors", "weights")
        staged.fresh("golden/a.png").write_bytes(content)
        staged.add("golden/a.png", "golden-image")
        return staged.commit(staged.manifest(**description()))


def golden_files() -> dict[str, bytes]:
    """Encoded images of several kinds, by file name."""
    grey = Image.fromarray(np.asarray(noise(50, 60, 3))[:, :, 0].copy())
    return {
        "golden/0-photo.jpg": encoded(noise(90, 70, 1), "JPEG", quality=90),
        "golden/1-alpha.png": encoded(noise(64, 48, 2).convert("RGBA")),
        "golden/2-grey.png": encoded(grey),
        "golden/3-wide.png": encoded(noise(300, 20, 4)),
    }
