"""The architectures of the library timm, named ``timm/NAME`` or ``timm/NAME.TAG``.

The tag is timm's own name of a set of pretrained weights; without one the default set is meant. No
other module imports timm, and this one is imported for such a name only.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, get_args

from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook

from tlserve.bundle.manifest import Decoding, Interpolation, Preprocessing
from tlserve.errors import MissingDependencyError, UsageError, WeightsError
from tlserve.zoo.names import nearest

try:
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError
    from timm import create_model
    from timm.data import resolve_data_config
    from timm.models import (
        PretrainedCfg,
        get_arch_pretrained_cfgs,
        get_deprecated_models,
        get_model_input_config,
        list_models,
        resolve_pretrained_cfg,
        set_pretrained_check_hash,
        set_pretrained_download_progress,
        split_model_name_tag,
    )
except ModuleNotFoundError as error:
    raise MissingDependencyError(
        f"Architectures named timm/… need the library timm, but {error.name} is not installed.",
        hint="Install the extra: pip install 'tlserve[train,timm]'",
    ) from error

PREFIX = "timm/"

_WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
"""What the file of weights is called in a repository of the Hugging Face Hub."""


@dataclass(frozen=True)
class TimmWeights:
    """A set of pretrained weights, with what the package uses of torchvision's ``Weights``.

    Attributes:
        name: timm's name for it: ``ARCHITECTURE.TAG``, or ``ARCHITECTURE`` where there is no tag.
        config: timm's description of it.
    """

    name: str
    config: PretrainedCfg

    @property
    def url(self) -> str:
        """Where a person finds the file."""
        repository = self.config.hf_hub_id
        if not repository:
            return str(self.config.url or "")
        # In repositories of others the file may have any name.
        is_timms = repository.startswith(PREFIX)
        page: str = hf_hub_url(repository, _WEIGHT_FILES[0])
        return page if is_timms else page.split("/resolve/")[0]

    @property
    def meta(self) -> dict[str, Any]:
        """As torchvision's: ``categories`` has one entry for each output of the original head."""
        return {"categories": tuple(str(number) for number in range(self.config.num_classes))}

    def preprocessing(self, decoding: Decoding | None = None) -> Preprocessing:
        """Give the preprocessing that the weights were evaluated with.

        Raises:
            UsageError: A specification cannot express it.
        """
        # Some weights have a larger input for tests than for training. timm's validate.py takes
        # that one unless told otherwise, and so do the accuracies that timm publishes.
        config = resolve_data_config(pretrained_cfg=self.config.to_dict(), use_test_size=True)
        return from_timm(config, self.name, decoding=decoding)

    def get_state_dict(self, *, progress: bool, check_hash: bool) -> dict[str, Tensor]:
        """Download the weights, or take them from timm's cache.

        Raises:
            WeightsError: timm offers none.
            OSError: They cannot be downloaded.
        """
        if not self.config.has_weights:
            entries = get_arch_pretrained_cfgs(self.name)
            known = [name for name, config in entries.items() if config.has_weights]
            others = f"Those of {' or '.join(PREFIX + n for n in known)}, or a" if known else "A"
            raise WeightsError(
                f"timm has no pretrained weights for {self.name}.",
                hint=f"{others} file with --weights FILE, or random ones with --weights none.",
            )
        try:
            if self.config.hf_hub_id:
                _reach(self.config.hf_hub_id)
            set_pretrained_download_progress(progress)
            set_pretrained_check_hash(check_hash)
            state: dict[str, Tensor] = create_model(self.name, pretrained=True).state_dict()
        # huggingface_hub lets the errors of its HTTP library through, and which library that is
        # differs between its versions.
        except Exception as error:
            raise OSError(" ".join(str(error).split()) or type(error).__name__) from error
        return state


def from_timm(
    config: dict[str, Any], name: str, *, decoding: Decoding | None = None
) -> Preprocessing:
    """Read timm's data configuration as a specification.

    It does what ``timm.data.create_transform(**config, is_training=False)`` does.

    Args:
        config: What ``timm.data.resolve_data_config`` gives.
        name: The name of the weights, for errors.
        decoding: The decoding rules; the usual ones if ``None``.

    Raises:
        UsageError: A specification cannot express it; what cannot be expressed is named.
    """
    channels, height, width = config["input_size"]
    mode, interpolation = config["crop_mode"], config["interpolation"]
    refused = {
        f"the crop mode {mode!r}": mode not in ("center", "squash"),
        f"the interpolation {interpolation!r}": interpolation not in get_args(Interpolation),
        f"an input of {channels} channels": channels != 3,
        f"an input of {height} x {width} pixels, which is not square": height != width,
    }
    for what, is_refused in refused.items():
        if is_refused:
            raise UsageError(
                f"The preprocessing of {PREFIX}{name} is not supported: it has {what}.",
                hint="Choose another architecture, or other weights of this one.",
            )
    edge = int(height / config["crop_pct"])
    return Preprocessing.model_validate(
        {
            # Squashed images lose their proportions; otherwise the short edge is meant.
            "resize": (edge, edge) if mode == "squash" else (edge,),
            "interpolation": interpolation,
            "crop": (height, width),
            "mean": tuple(config["mean"]),
            "std": tuple(config["std"]),
            "decoding": decoding or Decoding(),
        }
    )


@lru_cache(maxsize=1)
def architectures() -> tuple[str, ...]:
    """Name the models of the installed timm, without the prefix."""
    return tuple(list_models())


def check_name(architecture: str) -> None:
    """See that timm has such a model, and weights of that tag where the name has one.

    Raises:
        UsageError: It has not; the nearest names, or the tags there are, are listed.
    """
    name = architecture.removeprefix(PREFIX)
    model, tag = split_model_name_tag(name)
    if model not in architectures():
        renamed = get_deprecated_models().get(model)
        near = [renamed] if renamed else nearest(model, architectures())
        suggestion = " or ".join(PREFIX + other for other in near)
        raise UsageError(
            f"timm has no model {model!r}.",
            hint=f"Did you mean {suggestion}?"
            if near
            else f"timm.list_models() lists all {len(architectures())}.",
        )
    if tag and name not in get_arch_pretrained_cfgs(model):
        raise _unknown_weights(model, tag)


def weights_entry(architecture: str, name: str | None = None) -> TimmWeights:
    """Find a set of weights.

    Args:
        architecture: ``timm/NAME`` or ``timm/NAME.TAG``.
        name: Its tag, with or without the model's name before it; ``None`` for the one in
            ``architecture``, or the default one.

    Raises:
        UsageError: There is none of that name; those there are are listed.
    """
    check_name(architecture)
    own = architecture.removeprefix(PREFIX)
    model = split_model_name_tag(own)[0]
    if name is None:
        config = resolve_pretrained_cfg(own)
        return TimmWeights(f"{model}.{config.tag}" if config.tag else model, config)
    entries = get_arch_pretrained_cfgs(model)
    for known in (name, f"{model}.{name}"):
        if known in entries:
            return TimmWeights(known, entries[known])
    raise _unknown_weights(model, name)


def create(architecture: str, num_classes: int, image_size: int | None = None) -> nn.Module:
    """Build a model with random weights; see :func:`tlserve.zoo.architectures.build`."""
    check_name(architecture)
    name = architecture.removeprefix(PREFIX)
    model: nn.Module = create_model(
        name, num_classes=num_classes, **_sized(resolve_pretrained_cfg(name), image_size)
    )
    return model


def fitted(model: nn.Module, architecture: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Bring a state dict into the form that timm would load it in.

    timm renames the keys of other publishers and of its own earlier versions, and resamples
    position embeddings for another input size; each family has rules of its own, which only timm's
    loading reaches. They are applied by letting timm load ``state`` into a second model, and
    stopping it where it is about to.

    Args:
        model: The model that the weights are for.
        architecture: Its name.
        state: The weights as they were found.

    Returns:
        The state dict in its new form; ``state`` itself where timm cannot read it.
    """
    name = architecture.removeprefix(PREFIX)
    _, side, _ = get_model_input_config(model)["input_size"]

    def stop(_module: nn.Module, found: dict[str, Tensor], prefix: str, *_: Any) -> None:
        if not prefix:
            raise _Found(found)

    def watch(module: nn.Module, _name: str, _child: nn.Module | None) -> None:
        module.register_load_state_dict_pre_hook(stop)  # type: ignore[no-untyped-call]

    watching = register_module_module_registration_hook(watch)
    try:
        create_model(
            name,
            pretrained=True,
            # The head's outputs are as they are: what timm would do to them is not wanted.
            pretrained_cfg_overlay={"state_dict": state, "classifier": None},
            **_sized(resolve_pretrained_cfg(name), side),
        )
    except _Found as found:
        return dict(found.state)
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError):
        # The rules take for granted that the weights are of their family. Weights that are not are
        # refused by the comparison of the keys, which says so better.
        return state
    finally:
        watching.remove()
    return state


class _Found(BaseException):
    """Carries a state dict out of timm; not an ``Exception``, which timm might handle."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        self.state = state


def _sized(config: PretrainedCfg, image_size: int | None) -> dict[str, Any]:
    # Models whose weights do not depend on the input's size are not told it, and most refuse to be.
    if image_size is None or not config.fixed_input_size:
        return {}
    return {"img_size": image_size}


def _reach(repository: str) -> None:
    """See that the Hugging Face Hub answers, unless it need not be asked.

    huggingface_hub itself tries each of several files again and again, which takes minutes where
    there is no network; this is one request, with its timeout (``HF_HUB_ETAG_TIMEOUT``, 10 s).
    """
    if any(isinstance(try_to_load_from_cache(repository, name), str) for name in _WEIGHT_FILES):
        return
    try:
        get_hf_file_metadata(hf_hub_url(repository, _WEIGHT_FILES[0]))
    except EntryNotFoundError:
        # It answered. timm knows other names to look for.
        return


def _unknown_weights(model: str, name: str) -> UsageError:
    tags = [split_model_name_tag(known)[1] for known in get_arch_pretrained_cfgs(model)]
    listed = ", ".join(tag for tag in tags if tag) or "none with a name of its own"
    return UsageError(
        f"timm has no weights {name!r} of {model}.",
        hint=f"Known: {listed}; or DEFAULT, the path of a file, or none.",
    )
