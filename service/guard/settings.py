"""What the guard can be told."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

BACKLOG = 2048
"""How many connections wait in the kernel."""
DRAIN_SECONDS = 30
"""How long requests may go on once the service is asked to end."""


def _listed(value: object) -> object:
    """Split what came as text, as it does from the environment: at commas and spaces."""
    parts = [value] if isinstance(value, str) else value
    if not isinstance(parts, list | tuple):
        return value
    return tuple(word for part in parts for word in re.split(r"[\s,]+", str(part)) if word)


Words = Annotated[tuple[str, ...], BeforeValidator(_listed)]
Origin = Annotated[str, Field(pattern=r"^(\*|null|[a-z][a-z0-9+.-]*://[^/?#\sA-Z]+)$")]
"""As browsers write it (RFC 6454): any other text would never be theirs, and allow nobody."""
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class GuardSettings(BaseModel):
    """The settings that concern security; see :class:`service.settings.Settings`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    api_keys: str | None = None
    """Lines as in the file, or separated by commas."""
    api_keys_file: Path | None = None
    rate: Annotated[float | None, Field(gt=0, allow_inf_nan=False)] = None
    """Requests a second that one client may send for long."""
    burst: Annotated[int | None, Field(ge=1)] = None
    """How many it may send at once after a pause; twice the rate, if not said."""
    cors_origins: Annotated[tuple[Origin, ...], BeforeValidator(_listed)] = ()
    """Web pages from there may use the service; ``*`` for all."""
    allowed_hosts: Words = ()
    """Names that the service is reached by; any, if empty."""
    trusted_proxies: Words = ()
    """Addresses whose ``X-Forwarded-For`` is believed."""
    tls_cert: Path | None = None
    tls_key: Path | None = None
    max_connections: Annotated[int, Field(ge=1)] = 1024
    header_timeout: Seconds = 10.0
    """For a request's headers, and for a new connection to send any."""
    keep_alive: Seconds = 75.0
    """How long a connection may stay idle between requests."""

    @property
    def burst_or_default(self) -> int:
        """The burst, also where only the rate was given."""
        return self.burst or math.ceil(2 * (self.rate or 0.5))
