"""What the service is told, through the environment of its process."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from service.guard.settings import GuardSettings
from service.observe.logs import Format
from tlserve.bundle import Bundle
from tlserve.errors import UsageError
from tlserve.runtime.backend import Device, check_backend
from tlserve.runtime.serving import Running, resolve

PREFIX = "TLSERVE_"

_Count = Annotated[int, Field(ge=1)]


class Settings(GuardSettings):
    """Every setting of a service process; each is also ``TLSERVE_<NAME>`` in its environment.

    What is ``None``, or not in the environment, is filled in by :meth:`running`.

    Raises:
        UsageError: A value is not one that can be used.
    """

    bundle: Path
    """The bundle's directory."""
    backend: str | None = None
    """One of :data:`tlserve.runtime.backend.BACKENDS`."""
    device: Device | None = None
    threads: _Count | None = None
    """Threads for one batch on the CPU."""
    max_batch: _Count | None = None
    """The most images in one batch."""
    workers: _Count | None = None
    """Processes that answer; by default one for each GPU, or one on the CPU."""
    max_queue: _Count = 256
    """The most images that wait; further ones are refused with 503."""
    max_wait: Annotated[float, Field(gt=0)] = 5.0
    """The most seconds that an image may have to wait; where it would be more, it is refused."""
    max_bytes: _Count = 20 * 2**20
    """The largest image file, in bytes."""
    log_format: Format = "text"
    """How the log is written."""
    access_log: bool = False
    """Whether each request gets a line in the log."""
    max_images: _Count = 64
    """The most images in one request."""

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise _explained(error) from None
        if self.backend is not None:
            check_backend(self.backend)

    def running(self, bundle: Bundle) -> Running:
        """Fill in what was left open: what the bundle's export chose, or the defaults."""
        return resolve(bundle, self.backend, self.device, self.threads, self.max_batch)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Settings:
        """Read the settings back from the environment.

        Raises:
            UsageError: The bundle is not named, or a value is not one that can be used.
        """
        found = {
            name: environment[PREFIX + name.upper()]
            for name in cls.model_fields
            if environment.get(PREFIX + name.upper())
        }
        if "bundle" not in found:
            raise UsageError(
                f"The service does not know what to serve: {PREFIX}BUNDLE is not set.",
                hint="Start it with `tlserve serve models/<name>`.",
            )
        return cls(**found)

    def to_environment(self) -> dict[str, str]:
        """Give the variables that :meth:`from_environment` reads."""
        return {
            PREFIX + name.upper(): ",".join(value) if isinstance(value, tuple) else str(value)
            for name in type(self).model_fields
            if (value := getattr(self, name)) not in (None, ())
        }


def _explained(error: ValidationError) -> UsageError:
    """Say in the words of the command line what pydantic found, of the first thing it found."""
    first = error.errors()[0]
    name = str(first["loc"][0])
    option, value, context = name.replace("_", "-"), first["input"], first.get("ctx", {})
    match first["type"]:
        case "greater_than_equal":
            rule = f"{option} must be at least {context['ge']}, not {value}."
        case "greater_than":
            rule = f"{option} must be more than {context['gt']:g}, not {value}."
        case "int_parsing":
            rule = f"{PREFIX}{name.upper()} must be a whole number, not {value!r}."
        case "float_parsing":
            rule = f"{PREFIX}{name.upper()} must be a number, not {value!r}."
        case "string_pattern_mismatch":
            return UsageError(
                f"{value!r} in {option} is no origin of web pages.",
                hint="Write it as browsers do, in small letters and without a path, for example "
                "https://page.example or http://localhost:8080; * means all.",
            )
        case "literal_error":
            known = str(context["expected"]).replace("'", "").replace(" or ", ", ")
            return UsageError(f"Unknown {option} {value!r}.", hint=f"Known: {known}.")
        case _:
            rule = f"{option}: {first['msg']}, not {value!r}."
    default = Settings.model_fields[name].default
    return UsageError(rule, hint=f"Leave it out for the default, {default}." if default else "")
