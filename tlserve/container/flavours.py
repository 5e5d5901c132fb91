"""What an image can hold: the table, and what of a bundle an image of each kind needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tlserve.bundle import Bundle
from tlserve.bundle.manifest import FileKind
from tlserve.bundle.reading import READ_ALONG
from tlserve.errors import UsageError
from tlserve.runtime.backend import BACKENDS, Device
from tlserve.runtime.serving import resolve

_ALWAYS: frozenset[FileKind] = frozenset(
    ["golden-image", "golden-logits", "golden-answers", "parity"]
)


@dataclass(frozen=True)
class Flavour:
    """A kind of image.

    Attributes:
        extra: Of `pyproject.toml`, that brings the runtime; the lock has its name.
        device: Where the model runs.
        backends: Those it can run, the usual one first.
        environment: What its base or the container's runtime want to be told.
        run: Options of `docker run` that it needs.
        unused: Patterns of files in `site-packages` that it never opens, and is built without.
    """

    extra: str
    device: Device
    backends: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    run: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()


_GPU = {"NVIDIA_VISIBLE_DEVICES": "all", "NVIDIA_DRIVER_CAPABILITIES": "compute,utility"}
_FOREIGN = ("onnx", "tensorflow", "tensorflow_lite", "pytorch", "paddle", "jax", "gguf")
_OPENVINO_UNUSED = (
    *(f"openvino/libs/libopenvino_intel_{device}_plugin.so" for device in ("gpu", "npu")),
    # What the plugin for GPUs has measured.
    "openvino/libs/cache.json",
    *(f"openvino/libs/libopenvino_{of}_frontend.so.*" for of in _FOREIGN),
)

_ONNX = ("onnx", "onnx-fp16", "onnx-int8")

FLAVOURS: dict[str, Flavour] = {
    "cpu": Flavour("cpu", "cpu", _ONNX),
    "gpu": Flavour("gpu", "cuda", _ONNX, _GPU, ("--gpus", "all")),
    "openvino": Flavour("openvino", "cpu", ("openvino-bf16",), unused=_OPENVINO_UNUSED),
    "torch": Flavour("torch", "cuda", ("torchscript", "pt2", "eager"), _GPU, ("--gpus", "all")),
}


@dataclass(frozen=True)
class Choice:
    """What an image runs.

    Attributes:
        backend: One of :data:`tlserve.runtime.backend.BACKENDS`.
        kinds: The files of the bundle that it needs, golden images and all.
        environment: What `tlserve serve` has to be told; nothing where the bundle says it itself.
    """

    backend: str
    kinds: frozenset[FileKind]
    environment: Mapping[str, str]


def check_flavour(name: str) -> Flavour:
    """Find a flavour in :data:`FLAVOURS`.

    Raises:
        UsageError: There is none of that name.
    """
    if name not in FLAVOURS:
        raise UsageError(f"Unknown flavour {name!r}.", hint=f"Known: {', '.join(FLAVOURS)}.")
    return FLAVOURS[name]


def choose(bundle: Bundle, name: str, backend: str | None = None) -> Choice:
    """Say what an image of a flavour runs: what was asked for, else what the export chose for it.

    Where the export's choice is for another device or runtime, it is the first of the flavour's
    backends that the bundle has a file for.

    Raises:
        UsageError: The flavour cannot run the backend.
        BundleFileError: The bundle lacks the file.
    """
    flavour = check_flavour(name)
    chosen = resolve(bundle)
    if backend is None and chosen.backend in flavour.backends and chosen.device == flavour.device:
        return Choice(chosen.backend, _kinds(bundle, chosen.backend), {})
    if backend is None:
        there = [b for b in flavour.backends if bundle.names(BACKENDS[b].kind)]
        backend = there[0] if there else flavour.backends[0]
    if backend not in flavour.backends:
        raise UsageError(
            f"An image of flavour {name!r} cannot run the backend {backend!r}.",
            hint=f"It runs {', '.join(flavour.backends)}; see --flavour.",
        )
    environment = {"TLSERVE_BACKEND": backend, "TLSERVE_DEVICE": flavour.device}
    return Choice(backend, _kinds(bundle, backend), environment)


def _kinds(bundle: Bundle, backend: str) -> frozenset[FileKind]:
    kind = BACKENDS[backend].kind
    bundle.verified(kind)
    along = READ_ALONG.get(kind)
    return _ALWAYS | {kind} | ({along} if along else set())
