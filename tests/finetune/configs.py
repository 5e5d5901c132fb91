"""Settings of short runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tlserve.finetune.config import FinetuneConfig


def short_run(data: Path, home: Path, **changes: Any) -> FinetuneConfig:
    """An epoch of all blocks from random weights, on small images."""
    settings: dict[str, Any] = {
        "weights": "none",
        "strategy": "full",
        "epochs": 1,
        "image_size": 32,
        "workers": 0,
    }
    config = FinetuneConfig(
        data=data, name="x", output=home / "models", runs=home / "runs", **(settings | changes)
    )
    return config.resolved()
