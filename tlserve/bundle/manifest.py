"""``bundle.json`` as data: what a model is, and how each of its files was made.

The JSON Schema of :class:`Manifest` is published as ``docs/schema/bundle.v1.schema.json``;
``python -m tlserve.bundle`` prints it.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

SCHEMA_VERSION: Literal[1] = 1

Interpolation = Literal[
    "nearest", "nearest-exact", "bilinear", "bicubic", "box", "hamming", "lanczos"
]
FileKind = Literal[
    "weights",
    "golden-image",
    "golden-logits",
    "split",
    "onnx",
    "golden-answers",
    "onnx-data",
    "onnx-fp16",
    "onnx-int8",
    "openvino-bf16",
    "openvino-bf16-data",
    "torchscript",
    "pt2",
    "parity",
    "measurements",
]
Precision = Literal["float32", "float16", "bfloat16", "int8"]
Scalar = str | int | float | bool | None
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Size = Annotated[int, Field(gt=0)]

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
MAX_PIXELS = 89_478_485
"""Above this Pillow warns of a decompression bomb, and at twice as many refuses to open."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Decoding(_Record):
    """How encoded bytes become an RGB image; each rule has one value today, and says so."""

    orientation: Literal["exif"] = "exif"
    """The EXIF orientation tag is applied."""
    alpha: Literal["over-white"] = "over-white"
    """Transparent pixels are composited over white."""
    sixteen_bit: Literal["scaled"] = "scaled"
    """16-bit grey values are scaled to 8 bits, not clipped."""
    frame: Literal["first"] = "first"
    """Of an animation, the first frame."""
    max_pixels: Annotated[int, Field(gt=0, le=MAX_PIXELS)] = 2**26
    """Larger images are refused before they are decoded."""
    jpeg_draft: Annotated[int, Field(ge=1)] | None = None
    """JPEG files are decoded at the smallest DCT scale (1/2, 1/4, 1/8) whose edges are at least
    this many times the resize target; ``None``: always at full size."""


class Preprocessing(_Record):
    """How an RGB image becomes the network's input: float32, channels first."""

    resize: tuple[Size] | tuple[Size, Size]
    """The short edge, or (height, width); pixels."""
    interpolation: Interpolation
    crop: tuple[Size, Size]
    """The centre crop: (height, width); pixels."""
    mean: tuple[float, float, float]
    std: tuple[
        Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]
    ]
    colour: Literal["RGB"] = "RGB"
    layout: Literal["CHW"] = "CHW"
    dtype: Literal["float32"] = "float32"
    decoding: Decoding = Decoding()


class Head(_Record):
    """The part of the architecture whose shape depends on the number of classes."""

    parameters: tuple[str, ...]
    num_classes: Size


class Calibration(_Record):
    """Probabilities are softmax(logits / temperature)."""

    method: Literal["none"] = "none"
    temperature: Annotated[float, Field(gt=0)] = 1.0


class Epoch(_Record):
    """One line of the training history."""

    epoch: int
    train_loss: float
    val_loss: float
    val_accuracy: float
    lr: float
    seconds: float
    """How long it took, the validation included."""
    images_per_second: float | None = None
    """Of the training steps alone; ``None``: it was not measured."""


class Metrics(_Record):
    """What the best checkpoint does on the validation set, in evaluation mode, float32."""

    val_accuracy: float
    val_loss: float
    val_correct: int
    val_images: int
    best_epoch: int
    """From 1; 0: what the epochs began with, a linear probe."""
    history: tuple[Epoch, ...] = ()
    seconds: float = 0.0
    """How long the training took, the validations included."""
    trainable_parameters: int = 0
    optimizer_bytes: int = 0
    """What the optimiser kept beside the parameters."""


class Selection(_Record):
    """What ``--strategy auto`` chose, and why."""

    strategy: str
    reason: str
    lr: float | None = None
    probe_accuracy: float | None = None
    probe_seconds: float | None = None


class Dataset(_Record):
    """Where the images came from and which they were."""

    path: str
    fingerprint: Sha256
    train_images: int
    val_images: int
    skipped: tuple[str, ...] = ()


class Provenance(_Record):
    """What one would need to make this bundle again."""

    created: str
    seed: int
    dataset: Dataset
    pretrained: str
    pretrained_sha256: Sha256 | None = None
    versions: dict[str, str]


class ParitySummary(_Record):
    """The outcome of the parity check of one exported file."""

    passed: bool
    max_abs_diff: float
    """Of the level that came closest to its tolerance."""
    tolerance: float
    decisions_compared: int
    decisions_changed: int
    accuracy_drop: float = 0.0
    """Points of validation accuracy; negative where the file is right more often."""
    max_accuracy_drop: float | None = None
    """The most points that were allowed; ``None``: decisions had to be the same."""
    report: str = "parity.json"


class Serving(_Record):
    """How the model is best served on the machine that measured it."""

    backend: str
    device: str
    threads: Annotated[int, Field(ge=1)]
    max_batch: Annotated[int, Field(ge=1)]
    reason: str
    report: str = "measurements.json"


class FileEntry(_Record):
    """One file of the bundle."""

    sha256: Sha256
    bytes: Annotated[int, Field(ge=0)]
    kind: FileKind
    precision: Precision | None = None
    parity: ParitySummary | None = None
    details: dict[str, Scalar] = {}


class Manifest(_Record):
    """The whole of ``bundle.json``."""

    schema_version: Literal[1] = SCHEMA_VERSION
    name: Annotated[str, Field(pattern=NAME_PATTERN)]
    version: Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]
    architecture: str
    classes: Annotated[tuple[str, ...], Field(min_length=2)]
    preprocessing: Preprocessing
    head: Head
    calibration: Calibration = Calibration()
    training: dict[str, Scalar]
    """The resolved settings; `tlserve finetune --config bundle.json` trains with them again."""
    selection: Selection | None = None
    metrics: Metrics
    provenance: Provenance
    serving: Serving | None = None
    files: dict[str, FileEntry]
    left_out: dict[str, FileEntry] = {}
    """Files of the bundle that this copy of it is without."""

    @field_validator("files", "left_out")
    @classmethod
    def _inside_the_bundle(cls, files: dict[str, FileEntry]) -> dict[str, FileEntry]:
        for name in files:
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or name != str(path):
                raise ValueError(f"{name!r} is not a relative path inside the bundle")
        return files

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("two classes have the same name")
        if self.head.num_classes != len(self.classes):
            raise ValueError(
                f"the head has {self.head.num_classes} outputs for {len(self.classes)} classes"
            )
        if twice := sorted(self.files.keys() & self.left_out.keys()):
            raise ValueError(f"{twice[0]} is both listed and left out")
        every = [*self.files.values(), *self.left_out.values()]
        weights = [entry for entry in every if entry.kind == "weights"]
        if len(weights) != 1:
            raise ValueError(f"there must be one file of kind 'weights', not {len(weights)}")
        expected = model_version(
            weights[0].sha256,
            self.architecture,
            self.classes,
            self.preprocessing,
            self.calibration,
        )
        if self.version != expected:
            raise ValueError(
                f"version {self.version} does not belong to these weights, classes, preprocessing "
                f"and calibration (theirs is {expected}): one of them was changed by hand"
            )
        return self


def model_version(
    weights_sha256: str,
    architecture: str,
    classes: tuple[str, ...],
    preprocessing: Preprocessing,
    calibration: Calibration,
) -> str:
    """Name a model by everything that its answers depend on.

    Returns:
        12 hexadecimal digits. Two bundles of the same version give the same answers.
    """
    identity = {
        "weights": weights_sha256,
        "architecture": architecture,
        "classes": classes,
        "preprocessing": preprocessing.model_dump(mode="json"),
        "calibration": calibration.model_dump(mode="json"),
    }
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def is_valid_name(name: str) -> bool:
    """Tell whether ``name`` can name a bundle: it becomes a folder and part of an answer."""
    return re.fullmatch(NAME_PATTERN, name) is not None


def json_schema() -> dict[str, Any]:
    """Give the published JSON Schema of ``bundle.json``."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "tlserve model bundle, schema version 1",
        **{k: v for k, v in Manifest.model_json_schema().items() if k != "title"},
    }
