"""What the service is told, through the environment of its process."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args

from tlserve.bundle import Bundle
from tlserve.errors import UsageError
from tlserve.runtime.backend import Device, check_backend
from tlserve.runtime.serving import Running, resolve

PREFIX = "TLSERVE_"


@dataclass(frozen=True)
class Settings:
    """Every setting of a service process; each is also ``TLSERVE_<NAME>`` in its environment.

    What is ``None``, or not in the environment, is filled in by :meth:`running`.

    Attributes:
        bundle: The bundle's directory.
        backend: One of :data:`tlserve.runtime.backend.BACKENDS`.
        device: ``cpu`` or ``cuda``.
        max_batch: The most images in one batch.
        max_queue: The most images that wait; further ones are refused with 503.
        max_bytes: The largest image file, in bytes.
        threads: Threads for one batch on the CPU.

    Raises:
        UsageError: A value is not one that can be used.
    """

    bundle: Path
    backend: str | None = None
    device: Device | None = None
    max_batch: int | None = None
    max_queue: int = 256
    max_bytes: int = 20 * 2**20
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.backend is not None:
            check_backend(self.backend)
        if self.device is not None:
            _known("device", self.device, get_args(Device))
        _at_least("max_batch", self.max_batch, 1)
        _at_least("max_queue", self.max_queue, 1)
        _at_least("max_bytes", self.max_bytes, 1)
        _at_least("threads", self.threads, 1)

    def running(self, bundle: Bundle) -> Running:
        """Fill in what was left open: what the bundle's export chose, or the defaults."""
        return resolve(bundle, self.backend, self.device, self.threads, self.max_batch)

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
            device=cast("Device | None", environment.get(PREFIX + "DEVICE", cls.device)),
            **_integers(environment, "max_batch", "max_queue", "max_bytes", "threads"),
        )

    def to_environment(self) -> dict[str, str]:
        """Give the variables that :meth:`from_environment` reads."""
        return {
            PREFIX + field.name.upper(): str(getattr(self, field.name))
            for field in dataclasses.fields(self)
            if getattr(self, field.name) is not None
        }


def _integers(environment: Mapping[str, str], *names: str) -> dict[str, int]:
    """Read the whole numbers that there are."""
    found = {}
    for name in names:
        text = environment.get(PREFIX + name.upper())
        if text is None:
            continue
        try:
            found[name] = int(text)
        except ValueError:
            raise UsageError(
                f"{PREFIX}{name.upper()} must be a whole number, not {text!r}."
            ) from None
    return found


def _known(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UsageError(f"Unknown {name} {value!r}.", hint=f"Known: {', '.join(known)}.")


def _at_least(name: str, value: int | None, least: int) -> None:
    if value is not None and value < least:
        raise UsageError(f"{name.replace('_', '-')} must be at least {least}, not {value}.")
