"""What the service is told, through the environment of its process."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args

from tlserve.bundle.manifest import FileKind
from tlserve.errors import UsageError
from tlserve.runtime.backend import BACKENDS, Device

PREFIX = "TLSERVE_"

ARTIFACTS: dict[str, FileKind] = {
    "onnx": "onnx",
    "torchscript": "torchscript",
    "eager": "weights",
}
"""The kind of file that each backend runs."""


@dataclass(frozen=True)
class Settings:
    """Every setting of a service process; each is also ``TLSERVE_<NAME>`` in its environment.

    Attributes:
        bundle: The bundle's directory.
        backend: One of :data:`tlserve.runtime.backend.BACKENDS`.
        device: ``cpu`` or ``cuda``.
        max_batch: The most images in one batch.
        max_queue: The most images that wait; further ones are refused with 503.
        max_bytes: The largest image file, in bytes.
        threads: Threads for one batch on the CPU; 0 for one a processor.

    Raises:
        UsageError: A value is not one that can be used.
    """

    bundle: Path
    backend: str = "onnx"
    device: Device = "cpu"
    max_batch: int = 32
    max_queue: int = 256
    max_bytes: int = 20 * 2**20
    threads: int = 0

    def __post_init__(self) -> None:
        _known("backend", self.backend, tuple(BACKENDS))
        _known("device", self.device, get_args(Device))
        _at_least("max_batch", self.max_batch, 1)
        _at_least("max_queue", self.max_queue, 1)
        _at_least("max_bytes", self.max_bytes, 1)
        _at_least("threads", self.threads, 0)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Settings:
        """Read the settings back from the environment.

        Raises:
            UsageError: The bundle is not named, or a value is not one that can be used.
        """
        bundle = environment.get(PREFIX + "BUNDLE")
        if not bundle:
            raise UsageError(
                f"The service does not know what to serve: {PREFIX}BUNDLE is not set.",
                hint="Start it with `tlserve serve models/<name>`.",
            )
        return cls(
            bundle=Path(bundle),
            backend=environment.get(PREFIX + "BACKEND", cls.backend),
            device=cast("Device", environment.get(PREFIX + "DEVICE", cls.device)),
            max_batch=_integer(environment, "MAX_BATCH", cls.max_batch),
            max_queue=_integer(environment, "MAX_QUEUE", cls.max_queue),
            max_bytes=_integer(environment, "MAX_BYTES", cls.max_bytes),
            threads=_integer(environment, "THREADS", cls.threads),
        )

    def to_environment(self) -> dict[str, str]:
        """Give the variables that :meth:`from_environment` reads."""
        return {
            PREFIX + field.name.upper(): str(getattr(self, field.name))
            for field in dataclasses.fields(self)
        }


def _integer(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(PREFIX + name)
    if text is None:
        return default
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"{PREFIX}{name} must be a whole number, not {text!r}.") from None


def _known(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UsageError(f"Unknown {name} {value!r}.", hint=f"Known: {', '.join(known)}.")


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise UsageError(f"{name.replace('_', '-')} must be at least {least}, not {value}.")
