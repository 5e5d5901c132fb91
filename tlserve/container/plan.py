"""What one image will be."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from tlserve.bundle import Bundle
from tlserve.container.flavours import Choice, Flavour, check_flavour, choose
from tlserve.container.labels import labels
from tlserve.errors import UsageError

BASE = "python:3.11-slim"
USER = "10001:10001"
PORT = 3000

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*"
_REFERENCE = re.compile(
    rf"(?:[A-Za-z0-9.-]+(?::\d+)?/)?{_COMPONENT}(?:/{_COMPONENT})*"
    r"(?::[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?(?:@sha256:[0-9a-f]{64})?"
)
"""The name of an image: registry, path, tag, digest."""


@dataclass(frozen=True)
class Plan:
    """All that decides what is built.

    Attributes:
        bundle: The whole bundle.
        flavour: A name of :data:`tlserve.container.flavours.FLAVOURS`.
        choice: What of the bundle is run.
        base: The image that it is built on.
        tag: Its name.
        labels: What it says of itself.
    """

    bundle: Bundle
    flavour: str
    choice: Choice
    base: str
    tag: str
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def kind(self) -> Flavour:
        """The line of the table for its flavour."""
        return check_flavour(self.flavour)

    def run_command(self, program: str) -> str:
        """Write the command that runs it with everything locked that can be."""
        options = [
            "--read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges",
            f"--publish 127.0.0.1:{PORT}:{PORT}",
            *self.kind.run,
        ]
        return " ".join([program, "run --rm", *options, self.tag])


def make_plan(
    bundle: Bundle,
    flavour: str,
    *,
    created: str,
    backend: str | None = None,
    base: str = BASE,
    tag: str | None = None,
    extra_labels: Mapping[str, str] | None = None,
) -> Plan:
    """Decide what is left open.

    Raises:
        UsageError: A name is not one that can be used.
        BundleError: The bundle lacks what is needed, or was altered.
    """
    choice = choose(bundle, flavour, backend)
    name = bundle.manifest.name.lower()
    tag = tag or f"{name}:{bundle.manifest.version}-{flavour}"
    for option, reference in (("--tag", tag), ("--base", base)):
        if not _REFERENCE.fullmatch(reference):
            raise UsageError(
                f"{option} must be the name of an image, such as registry.example.org/bees:1, "
                f"not {reference!r}."
            )
    said = labels(bundle, flavour, choice.backend, base, created) | dict(extra_labels or {})
    return Plan(bundle, flavour, choice, base, tag, said)
