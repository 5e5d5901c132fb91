"""Loading a pretrained backbone, and saying which keys do not fit."""

from __future__ import annotations

import http.client
import math
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models.vision_transformer import interpolate_embeddings

from tlserve.bundle.files import sha256_of
from tlserve.errors import UsageError, WeightsError
from tlserve.zoo.architectures import head_parameters
from tlserve.zoo.blocks import ordered_blocks
from tlserve.zoo.names import is_timm
from tlserve.zoo.presets import weights_entry
from tlserve.zoo.state_dict import versioned

_FILE_SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")
_SHOWN_KEYS = 5


@dataclass(frozen=True)
class Pretrained:
    """Where a backbone's weights come from.

    Attributes:
        source: ``none``, the name of a weights entry, or a file's path as given.
        entry: The entry whose preprocessing applies; ``None`` for the default one.
        sha256: The hash of the file, where it was one.
        state: The state dict; ``None`` for random weights.
    """

    source: str
    entry: str | None = None
    sha256: str | None = None
    state: dict[str, Tensor] | None = None


def load_pretrained(architecture: str, weights: str) -> Pretrained:
    """Get the weights that an option names.

    Args:
        architecture: The architecture they are for.
        weights: ``DEFAULT`` or another entry of torchvision or timm, the path of a state dict
            (``.pth``/``.pt``, read without unpickling code, or ``.safetensors``), or ``none``.

    Raises:
        UsageError: There is no such entry or file.
        WeightsError: There are none or the download failed, or the file is not a state dict.
        MissingDependencyError: The architecture is one of timm's, which is not installed.
    """
    if weights.lower() == "none":
        return Pretrained("none")
    path = Path(weights).expanduser()
    if path.suffix.lower() in _FILE_SUFFIXES or len(path.parts) > 1 or path.is_file():
        return Pretrained(weights, None, *_read_file(path))
    entry = weights_entry(architecture, None if weights.upper() == "DEFAULT" else weights)
    return Pretrained(entry.name, entry.name, None, _download(architecture, entry))


def load_backbone(model: nn.Module, architecture: str, pretrained: Pretrained) -> None:
    """Copy pretrained weights into a model, all but its head's.

    Raises:
        WeightsError: A key of the backbone is missing or has another shape, or the file has keys
            that the architecture does not; they are named.
    """
    if pretrained.state is None:
        return
    head = head_parameters(architecture)
    wanted = {k: v for k, v in model.state_dict().items() if k not in head}
    given = {k: v for k, v in pretrained.state.items() if k not in head}
    if not is_timm(architecture):
        _fit_position_embedding(given, wanted, architecture)
    elif _shapes(given) != _shapes(wanted):
        from tlserve.zoo import timm

        state = timm.fitted(model, architecture, pretrained.state)
        given = {k: v for k, v in state.items() if k not in head}
    # Checkpoints from before PyTorch 0.4.1 have no such counter, and evaluation does not read it.
    # Auxiliary heads are dropped by who saves a network for evaluation only.
    optional = ("num_batches_tracked",)
    auxiliary = tuple(f"{m}." for m in ordered_blocks(model, head)[-1].modules)
    missing = [
        k
        for k in wanted
        if k not in given and not k.endswith(optional) and not k.startswith(auxiliary)
    ]
    unexpected = [k for k in given if k not in wanted]
    reshaped = [
        f"{k} {tuple(given[k].shape)} instead of {tuple(wanted[k].shape)}"
        for k in wanted
        if k in given and given[k].shape != wanted[k].shape
    ]
    problems = [
        f"{len(keys)} {what}: {', '.join(keys[:_SHOWN_KEYS] + ['…'] * (len(keys) > _SHOWN_KEYS))}"
        for what, keys in (
            ("missing", missing),
            ("not of this architecture", unexpected),
            ("of another shape", reshaped),
        )
        if keys
    ]
    if problems:
        raise WeightsError(
            f"The weights {pretrained.source} do not fit {architecture}: {'; '.join(problems)}.",
            hint="Is --arch the architecture that they were made for?",
        )
    model.load_state_dict(versioned(given, model), strict=False)


def _shapes(state: dict[str, Tensor]) -> dict[str, torch.Size]:
    return {key: value.shape for key, value in state.items()}


def _fit_position_embedding(
    given: dict[str, Tensor], wanted: dict[str, Tensor], architecture: str
) -> None:
    """Resample a vision transformer's position embedding, in place, for another input size.

    As in Dosovitskiy et al. 2021, section 3.2 (https://arxiv.org/abs/2010.11929).
    """
    key = "encoder.pos_embedding"
    if not architecture.startswith("vit_") or key not in given:
        return
    patch = wanted["conv_proj.weight"].shape[-1]
    if given[key].dim() == 3 and given[key].shape != wanted[key].shape:
        side = math.isqrt(wanted[key].shape[1] - 1) * patch
        given[key] = interpolate_embeddings(side, patch, OrderedDict({key: given[key]}))[key]


def _read_file(path: Path) -> tuple[str, dict[str, Tensor]]:
    if not path.is_file():
        raise UsageError(
            f"{path} is a folder, not a file of weights."
            if path.is_dir()
            else f"The weights file {path} does not exist.",
            hint="--weights takes DEFAULT, the name of other weights, a file, or none.",
        )
    try:
        if path.suffix.lower() == ".safetensors":
            content: Any = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    # For damaged files torch raises almost anything.
    except Exception as error:
        first_line = (
            str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        )
        raise WeightsError(
            f"{path} cannot be read as a state dict: {first_line}",
            hint="Save it with torch.save(model.state_dict(), path), or as .safetensors.",
        ) from error
    # Training scripts save the state dict inside a checkpoint under one of these names.
    for wrapper in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
            break
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise WeightsError(
            f"{path} is not a state dict: it holds a {type(content).__name__}.",
            hint="Save it with torch.save(model.state_dict(), path), or as .safetensors.",
        )
    # DistributedDataParallel puts this before each key.
    state = {str(k).removeprefix("module."): v for k, v in content.items()}
    return sha256_of(path), state


def _download(architecture: str, entry: Any) -> dict[str, Tensor]:
    try:
        state: dict[str, Tensor] = entry.get_state_dict(progress=True, check_hash=True)
    # URLError is an OSError; a wrong hash is a RuntimeError.
    except (OSError, http.client.HTTPException, RuntimeError) as error:
        reason = getattr(error, "reason", None) or error
        raise WeightsError(
            f"The weights {entry.name} of {architecture} cannot be downloaded: {reason}.",
            hint=(
                f"Fetch {entry.url} on a machine with internet and pass its path with --weights, "
                "or start from random weights with --weights none."
            ),
        ) from error
    return state
