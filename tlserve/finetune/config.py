"""What a fine-tuning run is asked to do."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from tlserve.bundle.manifest import Scalar, is_valid_name
from tlserve.errors import UsageError

Strategy = Literal["feature-extraction", "full"]

DEFAULT_LR: dict[Strategy, float] = {"feature-extraction": 1e-3, "full": 1e-4}


@dataclass(frozen=True)
class FinetuneConfig:
    """The settings of one run.

    Attributes:
        data: An ImageFolder, with ``train/`` and ``val/`` or to be split.
        name: The bundle's name.
        arch: The architecture.
        weights: ``DEFAULT``, a torchvision entry, a file, or ``none``.
        strategy: Which parameters are trained.
        epochs: At most this many.
        batch_size: Images a step.
        lr: Adam's learning rate; ``None``: the strategy's default.
        patience: Epochs without a better one (by accuracy, then loss) before stopping.
        val_fraction: The share of each class that is split off where there is no ``val/``.
        image_size: The side of the network's input in pixels; ``None``: the weights' own.
        flip: Whether images are mirrored at random in training.
        min_scale: The smallest share of an image's area that a random crop keeps.
        jpeg_draft: See :class:`tlserve.bundle.manifest.Decoding`.
        strict: Whether a file that cannot be used is an error.
        workers: Processes that load images; ``None``: one a processor, at most 8.
        seed: Of the split, the head, the order and the augmentation.
        device: ``auto``, ``cpu`` or ``cuda``.
        output: The folder that the bundle is put into.
        runs: The folder for what is kept of a run outside the bundle.
        overwrite: Whether an existing bundle of that name is replaced.
    """

    data: Path
    name: str
    arch: str = "resnet18"
    weights: str = "DEFAULT"
    strategy: Strategy = "feature-extraction"
    epochs: int = 20
    batch_size: int = 32
    lr: float | None = None
    patience: int = 6
    val_fraction: float = 0.2
    image_size: int | None = None
    flip: bool = True
    min_scale: float = 0.35
    jpeg_draft: int | None = None
    strict: bool = False
    workers: int | None = None
    seed: int = 0
    device: str = "auto"
    output: Path = Path("models")
    runs: Path = Path("runs")
    overwrite: bool = False

    def resolved(self) -> FinetuneConfig:
        """Fill in the defaults that depend on other settings, and check the rest.

        Raises:
            UsageError: A value is out of its range.
        """
        if not is_valid_name(self.name):
            raise UsageError(
                f"{self.name!r} cannot name a bundle.",
                hint="Use letters, digits, '.', '_' and '-', a letter or digit first: --name",
            )
        ranges = {
            "epochs": self.epochs >= 1,
            "batch-size": self.batch_size >= 1,
            "lr": self.lr is None or self.lr > 0,
            "patience": self.patience >= 1,
            "val-fraction": 0 < self.val_fraction < 1,
            "image-size": self.image_size is None or 16 <= self.image_size <= 4096,
            "min-scale": 0 < self.min_scale <= 1,
            "jpeg-draft": self.jpeg_draft is None or self.jpeg_draft >= 1,
            "workers": self.workers is None or self.workers >= 0,
            "seed": self.seed >= 0,
        }
        for option, valid in ranges.items():
            if not valid:
                value = getattr(self, option.replace("-", "_"))
                raise UsageError(f"--{option} {value} is out of range.", hint="See --help.")
        return replace(self, lr=self.lr if self.lr is not None else DEFAULT_LR[self.strategy])

    def record(self) -> dict[str, Scalar]:
        """Give the settings that a bundle records; where the files lay is left out."""
        left_out = {"data", "output", "runs", "overwrite", "name", "device", "workers"}
        values: dict[str, Any] = {k: v for k, v in asdict(self).items() if k not in left_out}
        return values
