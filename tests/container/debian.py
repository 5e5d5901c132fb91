"""A base image with Python, made without a registry: Debian, by debootstrap, kept between runs."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tlserve-container-test"
BASE = "localhost/python:3.11-slim"

_RELEASE = "bookworm"
_PACKAGES = "python3,python3-venv,python3-pip,ca-certificates"
_PATH = "/usr/local/bin:/usr/bin:/bin"


def run(command: Sequence[str | Path], environment: Mapping[str, str] | None = None) -> str:
    """Run a program that is to succeed, and give what it prints."""
    done = subprocess.run(
        [str(part) for part in command],
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout.strip()


def storage_driver(scratch: Path) -> str:
    """Tell how a store keeps layers: ``vfs`` copies all of them each time, but works everywhere."""
    parts = {name: scratch / name for name in ("lowerdir", "upperdir", "workdir")}
    place = scratch / "merged"
    for folder in (*parts.values(), place):
        folder.mkdir()
    options = ",".join(f"{name}={folder}" for name, folder in parts.items())
    mount: list[str | Path] = ["mount", "-t", "overlay", "overlay", "-o", options, place]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        return "vfs"
    run(["umount", place])
    return "overlay"


def _archive(scratch: Path) -> Path:
    archive = CACHE / f"{_RELEASE}-python-without-bytecode.tar"
    if not archive.is_file():
        CACHE.mkdir(parents=True, exist_ok=True)
        root = scratch / "debian"
        run(["debootstrap", "--variant=minbase", f"--include={_PACKAGES}", _RELEASE, root])
        for emptied in ("var/cache/apt/archives", "var/lib/apt/lists"):
            shutil.rmtree(root / emptied)
        # Python's official images have none either.
        for compiled in [*root.rglob("__pycache__")]:
            shutil.rmtree(compiled)
        part = archive.with_suffix(".part")
        run(["tar", "--create", "--numeric-owner", "--file", part, "--directory", root, "."])
        part.rename(archive)
        shutil.rmtree(root)
    return archive


def make_base(environment: Mapping[str, str], scratch: Path) -> None:
    """Put the image :data:`BASE` into a store."""
    archive = _archive(scratch)
    container = run(["buildah", "from", "scratch"], environment)
    run(["buildah", "add", "--quiet", container, archive, "/"], environment)
    run(["buildah", "config", "--env", f"PATH={_PATH}", container], environment)
    run(
        ["buildah", "commit", "--quiet", "--rm", "--format", "docker", container, BASE], environment
    )
