"""What a fine-tuning run is asked to do."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from tlserve.bundle.manifest import Scalar, is_valid_name
from tlserve.errors import UsageError

Strategy = Literal["feature-extraction", "partial", "discriminative", "full", "gradual", "auto"]
OptimizerName = Literal["sgd", "adam", "adamw"]
ScheduleName = Literal["plateau", "cosine", "step", "constant"]
AutoAugment = Literal["none", "randaugment", "trivialaugment"]
Balance = Literal["none", "class-weights", "sampler"]
Precision = Literal["auto", "float32", "bf16", "fp16"]
ImageCache = Literal["auto", "reduced", "off"]
CacheMode = Literal["auto", "float32", "float16", "off"]
DeviceName = Literal["auto", "cpu", "cuda"]

NOT_RECORDED = frozenset(
    {"data", "output", "runs", "overwrite", "name", "device", "workers", "budget"}
    | {"cache_budget", "save_every", "time_limit", "sweep"}
)
"""Settings of where and on what a run happens and of how others are found, not what it trains."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is trained; ``None`` stands for the strategy's default.

    Attributes:
        strategy: Which blocks are trained, and how fast each.
        unfreeze: ``partial``: so many of the last blocks are trained, the head included.
        freeze: ``partial``: so many of the first blocks are not.
        layer_decay: Each block's rate is this share of the rate of the block above it.
        epochs: At most this many.
        batch_size: Images a step; ``auto``: as many as the GPU's memory holds.
        optimizer: The optimiser.
        lr: The head's learning rate, or ``find``: by a range test.
        weight_decay: Of matrices and kernels; biases and normalisation have none.
        momentum: SGD's.
        schedule: How rates change: ``plateau`` with the validation loss, the others with time.
        warmup: Epochs in which the rates rise to their values; needs a schedule in time.
        patience: Epochs without a better one (by accuracy, then loss) before stopping; 0: never.
        clip_grad: The largest norm of the gradient; 0: any.
        ema: The decay of an exponential moving average of the weights, which is then what is
            validated and kept; 0: none.
        precision: Of the forward and backward pass; ``auto``: bf16 on a GPU that has it.
        label_smoothing: The share of the target that is spread over all classes.
        mixup: The parameter of mixup's Beta distribution; 0: no mixup.
        cutmix: The parameter of CutMix's Beta distribution; 0: no CutMix.
        auto_augment: A policy of augmentations beside crop and flip.
        flip: Whether images are mirrored at random.
        min_scale: The smallest share of an image's area that a random crop keeps.
        balance: What is done where classes have different numbers of images.
        views: Augmented views of an image, where what frozen blocks make of it is kept.
        cache: How what frozen blocks make of the images is kept; ``auto``: float32 where there is
            room, else float16.
        image_cache: Which decoded images are kept, where each epoch reads them; ``auto``: as they
            are, where there is room; ``reduced``: large ones are made smaller, room or not.
        compile: Whether what is trained is compiled.
        sweep: Whether learning rates and weight decays are tried first.
        budget: ``auto``: fine-tuning is begun only if it will take at most so many minutes.
    """

    strategy: Strategy = "feature-extraction"
    unfreeze: int | None = None
    freeze: int | None = None
    layer_decay: float | None = None
    epochs: int = 20
    batch_size: int | Literal["auto"] = 32
    optimizer: OptimizerName | None = None
    lr: float | Literal["find"] | None = None
    weight_decay: float | None = None
    momentum: float = 0.9
    schedule: ScheduleName | None = None
    warmup: float | None = None
    patience: int | None = None
    clip_grad: float | None = None
    ema: float | None = None
    precision: Precision = "auto"
    label_smoothing: float | None = None
    mixup: float = 0.0
    cutmix: float = 0.0
    auto_augment: AutoAugment = "none"
    flip: bool = True
    min_scale: float = 0.35
    balance: Balance = "none"
    views: int | None = None
    cache: CacheMode = "auto"
    image_cache: ImageCache = "auto"
    compile: bool = False
    sweep: bool = False
    budget: float = 60.0


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(Recipe):
    """The settings of one run: the recipe, and on what it is used.

    Attributes:
        data: An ImageFolder, with ``train/`` and ``val/`` or to be split.
        name: The bundle's name.
        arch: The architecture.
        weights: ``DEFAULT``, a torchvision entry, a file, or ``none``.
        val_fraction: The share of each class that is split off where there is no ``val/``.
        image_size: The side of the network's input in pixels; ``None``: the weights' own.
        jpeg_draft: See :class:`tlserve.bundle.manifest.Decoding`.
        strict: Whether a file that cannot be used is an error.
        workers: Processes that load images; ``None``: as many as a measurement says.
        seed: Of the split, the head, the order and the augmentation.
        deterministic: Whether only algorithms are used that give the same each time on a GPU.
        device: ``auto``, ``cpu`` or ``cuda``.
        output: The folder that the bundle is put into.
        runs: The folder for what is kept of a run outside the bundle.
        cache_budget: The room for decoded images and what frozen blocks made of images, in
            ``runs``, in GB.
        save_every: Within an epoch, the state is saved after so many minutes.
        time_limit: Training stops so long after the start, such as ``90s``, ``10m``, ``1h30m``.
        overwrite: Whether an existing bundle of that name is replaced.
    """

    data: Path
    name: str
    arch: str = "resnet18"
    weights: str = "DEFAULT"
    val_fraction: float = 0.2
    image_size: int | None = None
    jpeg_draft: int | None = None
    strict: bool = False
    workers: int | None = None
    seed: int = 0
    deterministic: bool = False
    device: DeviceName = "auto"
    output: Path = Path("models")
    runs: Path = Path("runs")
    cache_budget: float = 20.0
    save_every: float = 5.0
    time_limit: str | None = None
    overwrite: bool = False

    def resolved(self) -> FinetuneConfig:
        """Fill in the defaults that depend on the strategy, and check the rest.

        Raises:
            UsageError: A value breaks a rule; the rule is named.
        """
        if not is_valid_name(self.name):
            raise UsageError(
                f"{self.name!r} cannot name a bundle.",
                hint="Use letters, digits, '.', '_' and '-', a letter or digit first: --name",
            )
        _check_ranges(self)
        _check_combinations(self)
        if self.time_limit is not None:
            seconds_of(self.time_limit)
        if self.strategy == "auto":
            # Each phase has its own strategy, whose defaults it fills in itself.
            return self
        defaults: dict[str, Any] = DEFAULTS[self.strategy] | {"clip_grad": 0.0, "ema": 0.0}
        filled = {k: v for k, v in defaults.items() if getattr(self, k) is None}
        config = replace(self, **filled)
        late: dict[str, Any] = {}
        if config.weight_decay is None:
            late["weight_decay"] = WEIGHT_DECAY[config.optimizer or "adam"]
        if config.patience is None:
            late["patience"] = 6 if config.schedule == "plateau" else 0
        if config.warmup is None:
            late["warmup"] = min(1.0, config.epochs / 10) if config.schedule == "cosine" else 0.0
        if config.views is None:
            few, many = _VIEWS
            late["views"] = min(max(few, config.epochs // _EPOCHS_A_VIEW), many)
        return replace(config, **late)

    def record(self) -> dict[str, Scalar]:
        """Give the settings that a bundle records; where the files lay is left out."""
        return {k: v for k, v in asdict(self).items() if k not in NOT_RECORDED}


def seconds_of(duration: str) -> float:
    """Read a duration.

    Raises:
        UsageError: It is none.
    """
    parts = _DURATION.fullmatch(duration.strip())
    hours, minutes, seconds = (float(part or 0) for part in parts.groups()) if parts else (0, 0, 0)
    total = hours * 3600 + minutes * 60 + seconds
    if not total:
        raise UsageError(
            f"--time-limit {duration}: it must be a time above 0, such as 90s, 10m or 1h30m."
        )
    return total


def setting_names() -> frozenset[str]:
    """Give the names of the settings, but for the two that each run has for itself."""
    return frozenset(field.name for field in fields(FinetuneConfig)) - {"data", "name"}


DEFAULTS: dict[Strategy, dict[str, Any]] = {
    "feature-extraction": {
        "optimizer": "adam",
        "lr": 1e-3,
        "schedule": "plateau",
        "label_smoothing": 0.0,
    },
    "partial": {"optimizer": "adamw", "lr": 3e-4, "schedule": "cosine", "label_smoothing": 0.1},
    "discriminative": {
        "optimizer": "adamw",
        "lr": 1e-3,
        "schedule": "cosine",
        "label_smoothing": 0.1,
    },
    "full": {"optimizer": "adamw", "lr": 1e-4, "schedule": "cosine", "label_smoothing": 0.1},
    "gradual": {"optimizer": "adamw", "lr": 1e-3, "schedule": "cosine", "label_smoothing": 0.1},
}
"""What ``None`` stands for, by strategy; docs/strategies.md has the measurements."""

WEIGHT_DECAY: dict[OptimizerName, float] = {"sgd": 1e-4, "adam": 0.0, "adamw": 1e-2}

_VIEWS, _EPOCHS_A_VIEW = (2, 16), 8

_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")

_RANGES: dict[str, tuple[float, float, str]] = {
    "unfreeze": (1, 10_000, "at least 1: the head"),
    "freeze": (1, 10_000, "at least 1"),
    "layer_decay": (1e-6, 1, "above 0 and at most 1"),
    "epochs": (1, 1_000_000, "at least 1"),
    "batch_size": (1, 1_000_000, "at least 1, or auto"),
    "lr": (1e-12, 1e40, "above 0, or find"),
    "weight_decay": (0, 1e6, "0 or more"),
    "momentum": (0, 0.9999, "from 0 to below 1"),
    "warmup": (0, 1_000_000, "0 or more epochs"),
    "patience": (0, 1_000_000, "at least 1, or 0 for never"),
    "clip_grad": (0, 1e9, "0 or more"),
    "ema": (0, 0.999999, "from 0 to below 1"),
    "label_smoothing": (0, 0.9999, "from 0 to below 1"),
    "mixup": (0, 1000, "0 or more"),
    "cutmix": (0, 1000, "0 or more"),
    "min_scale": (1e-6, 1, "above 0 and at most 1"),
    "budget": (0, 1e9, "0 or more minutes"),
    "views": (1, 10_000, "at least 1"),
    "cache_budget": (0, 1e9, "0 or more GB"),
    "save_every": (0, 1e9, "0 or more minutes"),
    "val_fraction": (1e-6, 0.999999, "above 0 and below 1"),
    "image_size": (16, 4096, "from 16 to 4096 pixels"),
    "jpeg_draft": (1, 1000, "at least 1"),
    "workers": (0, 4096, "0 or more"),
    "seed": (0, 2**63 - 1, "0 or more"),
}


def _check_ranges(config: FinetuneConfig) -> None:
    for field in fields(config):
        value = getattr(config, field.name)
        if field.name not in _RANGES or value is None or isinstance(value, str):
            continue
        low, high, rule = _RANGES[field.name]
        if not low <= value <= high:
            raise UsageError(f"--{field.name.replace('_', '-')} {value}: it must be {rule}.")


def _check_combinations(config: FinetuneConfig) -> None:
    if (config.unfreeze or config.freeze) and config.strategy != "partial":
        option = "--unfreeze" if config.unfreeze else "--freeze"
        raise UsageError(
            f"{option} is for --strategy partial, not {config.strategy}.",
            hint="The other strategies say themselves what is trained: see `tlserve inspect ARCH`.",
        )
    if config.unfreeze and config.freeze:
        raise UsageError(
            "--unfreeze and --freeze say the same thing from two ends.", hint="Pass one of them."
        )
    if config.sweep and (config.strategy == "auto" or config.lr == "find"):
        other = "--strategy auto" if config.strategy == "auto" else "--lr find"
        raise UsageError(
            f"--sweep tries learning rates, and {other} chooses one in another way.",
            hint="Leave one of the two away.",
        )
    if config.warmup and config.schedule == "plateau":
        raise UsageError(
            "--warmup needs a schedule in time, and plateau follows the validation loss.",
            hint="Use --schedule cosine, step or constant.",
        )
