"""From a context to an image and the list of its packages."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tlserve.container.builders import Builder, build_command, inspect, run_build
from tlserve.container.index import Index
from tlserve.container.plan import Plan
from tlserve.errors import ExportError

SBOM = "sbom.cdx.json"


@dataclass(frozen=True)
class Image:
    """What was built.

    Attributes:
        tag: Its name.
        id: The hash of its configuration, or with some of Docker's stores of its manifest.
        bytes: The sizes of its layers, those of the base included; ``None``: the builder does not
            say.
        sbom: The list of its packages.
    """

    tag: str
    id: str
    bytes: int | None
    sbom: Path


def build(
    plan: Plan,
    context: Path,
    builder: Builder,
    index: Index,
    tell: Callable[[str], None],
    environment: Mapping[str, str],
) -> Image:
    """Build the image of a context that was written, and put the list of its packages into it.

    Args:
        plan: What was planned.
        context: Its folder.
        builder: The program that builds.
        index: How its pip reaches packages.
        tell: Is called with each line that the program writes.
        environment: For the program.

    Raises:
        ExportError: It failed; the message has the step and its last words.
    """
    epoch = environment.get("SOURCE_DATE_EPOCH")
    with tempfile.TemporaryDirectory(prefix="tlserve-build-") as scratch:
        folder = Path(scratch)
        secrets = index.secrets(folder)
        id_file = folder / "id"
        # First the list: it comes from what the image is built from, and if it fails there is no
        # image without one.
        listed = folder / "sbom"
        run_build(
            build_command(
                builder, context, secrets=secrets, epoch=epoch, target="sbom", output=listed
            ),
            tell,
            environment,
        )
        run_build(
            build_command(
                builder, context, secrets=secrets, epoch=epoch, tag=plan.tag, id_file=id_file
            ),
            tell,
            environment,
        )
        identity = id_file.read_text("utf-8").strip()
        found = _read_sbom(listed / SBOM)
        (context / SBOM).write_text(found, "utf-8")
    described = inspect(builder, plan.tag, environment)
    return Image(plan.tag, identity, _size(described), context / SBOM)


def _read_sbom(path: Path) -> str:
    try:
        text = path.read_text("utf-8")
        components = json.loads(text)["components"]
    except (OSError, ValueError, KeyError) as error:
        raise ExportError(f"The build gave no list of the image's packages: {error!r}.") from error
    if not components:
        raise ExportError("The list of the image's packages is empty.")
    return text


def _size(described: Mapping[str, Any]) -> int | None:
    if "Size" in described:
        return int(described["Size"])
    # buildah gives the manifest, as text.
    manifest = json.loads(described.get("Manifest") or "{}")
    sizes = [layer["size"] for layer in manifest.get("layers", ())]
    return sum(sizes) or None
