"""What an image says of itself: OCI's annotation keys, and what identifies the model."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

import tlserve
from tlserve.bundle import Bundle
from tlserve.bundle.manifest import Manifest
from tlserve.errors import UsageError

_OCI = "org.opencontainers.image."


def labels(bundle: Bundle, flavour: str, backend: str, base: str, created: str) -> dict[str, str]:
    """Describe an image of a bundle.

    Args:
        bundle: The whole one.
        flavour: Of the image.
        backend: What runs the model in it.
        base: The image that it is built on; the digest, where it has one, is said separately, too.
        created: When; ISO 8601.
    """
    manifest = bundle.manifest
    name, _, digest = base.partition("@")
    found = {
        f"{_OCI}title": manifest.name,
        f"{_OCI}description": describe(manifest),
        f"{_OCI}version": manifest.version,
        f"{_OCI}created": created,
        f"{_OCI}base.name": name,
        "tlserve.version": tlserve.__version__,
        "tlserve.flavour": flavour,
        "tlserve.backend": backend,
        "tlserve.model.name": manifest.name,
        "tlserve.model.version": manifest.version,
        "tlserve.model.architecture": manifest.architecture,
        "tlserve.bundle.sha256": bundle.manifest_sha256,
    }
    return found | ({f"{_OCI}base.digest": digest} if digest else {})


def describe(manifest: Manifest) -> str:
    """Say in one line what is served."""
    classes = len(manifest.classes)
    return f"{manifest.architecture}, {classes} classes, served over HTTP by tlserve"


def created_at(environment: Mapping[str, str]) -> str:
    """Say when the image is made: now, or ``SOURCE_DATE_EPOCH`` (seconds since 1970).

    Raises:
        UsageError: That is no number of seconds.
    """
    epoch = environment.get("SOURCE_DATE_EPOCH")
    try:
        moment = datetime.fromtimestamp(int(epoch), UTC) if epoch else datetime.now(UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise UsageError(
            f"SOURCE_DATE_EPOCH must be seconds since 1970, not {epoch!r}.",
            hint="For the time of the last commit: SOURCE_DATE_EPOCH=$(git log -1 --format=%ct).",
        ) from error
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def given(texts: list[str]) -> dict[str, str]:
    """Read labels from the command line.

    Raises:
        UsageError: One is not ``KEY=VALUE``.
    """
    found = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or not equals or any(c.isspace() for c in key):
            raise UsageError(
                f"--label must be KEY=VALUE, not {text!r}.",
                hint=f"For example --label {_OCI}revision=$(git rev-parse HEAD).",
            )
        found[key] = value
    return found
