"""The preprocessing that pretrained weights were evaluated with, as data."""

from __future__ import annotations

from typing import Any

from torchvision.models import get_model_weights

from tlserve.bundle.manifest import Decoding, Preprocessing
from tlserve.errors import UsageError
from tlserve.zoo.names import is_timm


def from_torchvision(transforms: Any, *, decoding: Decoding | None = None) -> Preprocessing:
    """Read a ``torchvision.transforms._presets.ImageClassification`` as a specification."""
    resize = tuple(transforms.resize_size)
    crop = tuple(transforms.crop_size)
    return Preprocessing.model_validate(
        {
            "resize": resize,
            "interpolation": transforms.interpolation.value,
            "crop": crop * 2 if len(crop) == 1 else crop,
            "mean": tuple(transforms.mean),
            "std": tuple(transforms.std),
            "decoding": decoding or Decoding(),
        }
    )


def preset(
    architecture: str, weights: str | None = None, *, decoding: Decoding | None = None
) -> Preprocessing:
    """Give the preprocessing of an architecture's weights.

    Args:
        architecture: The architecture.
        weights: The name of a weights entry such as ``IMAGENET1K_V1``; the default one if ``None``.
        decoding: The decoding rules; the usual ones if ``None``.

    Raises:
        UsageError: There are no such weights, or a specification cannot express what they need.
    """
    entry = weights_entry(architecture, weights)
    if is_timm(architecture):
        return entry.preprocessing(decoding)  # type: ignore[no-any-return]
    return from_torchvision(entry.transforms(), decoding=decoding)


def with_image_size(spec: Preprocessing, size: int) -> Preprocessing:
    """Change the input to ``size`` x ``size`` pixels, the resize in proportion."""
    scale = size / min(spec.crop)
    resize = tuple(max(round(edge * scale), size) for edge in spec.resize)
    return Preprocessing.model_validate(
        spec.model_dump() | {"resize": resize, "crop": (size, size)}
    )


def weights_entry(architecture: str, name: str | None = None) -> Any:
    """Find a weights entry by name; the default one if ``None``.

    Returns:
        An entry of torchvision's, or for an architecture of timm's a
        :class:`tlserve.zoo.timm.TimmWeights`.

    Raises:
        UsageError: The architecture has no weights of that name; those it has are listed.
        MissingDependencyError: It is one of timm's, which is not installed.
    """
    if is_timm(architecture):
        from tlserve.zoo import timm

        return timm.weights_entry(architecture, name)
    entries = get_model_weights(architecture)
    if name is None:
        return entries.DEFAULT
    if name not in entries.__members__:
        known = ", ".join(entry.name for entry in entries)
        raise UsageError(
            f"{architecture} has no weights named {name!r}.",
            hint=f"Known: DEFAULT, {known}; or the path of a file, or none.",
        )
    return entries[name]
