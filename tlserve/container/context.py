"""The folder that an image is built from."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import tempfile
from importlib.resources import files
from pathlib import Path

from tlserve.bundle.excerpt import excerpt
from tlserve.bundle.files import exchange, writing_to
from tlserve.container.bento import build_bento
from tlserve.container.dockerfile import dockerfile, read_file
from tlserve.container.labels import describe
from tlserve.container.plan import Plan
from tlserve.errors import MissingDependencyError, StorageError

_PACKAGES = ("tlserve", "export", "service")
_METADATA = ("METADATA", "entry_points.txt")
_DOCKERFILE, _BENTO = "Dockerfile", "bento"
_SBOM_LOCK = "sbom"

_IGNORED = """\
*
!bento/src
!requirements.txt
!sbom-requirements.txt
!slim.py
"""


def check_place(target: Path) -> None:
    """Refuse to replace what is no context.

    Raises:
        StorageError: Something else is there.
    """
    if not target.exists():
        return
    ours = (target / _DOCKERFILE).is_file() and (target / _BENTO / "bento.yaml").is_file()
    if not ours and not (target.is_dir() and not any(target.iterdir())):
        raise StorageError(
            f"{target} exists and is not a folder that `tlserve containerize` wrote: it will not "
            "be replaced.",
            hint="Choose another with --output.",
        )


def lock(name: str) -> str:
    """Read a lock that comes with this package: packages, each with its hashes."""
    return (files("tlserve.container") / "locks" / f"{name}.txt").read_text("utf-8")


def write_context(plan: Plan, target: Path) -> None:
    """Write the folder; an earlier one is replaced in one step.

    Raises:
        StorageError: Something else is there, or the disk refused.
        BundleError: A file of the bundle is not the one that was written.
        ExportError: The Bento could not be built.
    """
    check_place(target)
    target = target.resolve()
    with writing_to(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        with writing_to(target):
            _write(plan, folder)
            _readable_by_all(folder)
            if target.exists():
                exchange(folder, target)
            else:
                folder.rename(target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write(plan: Plan, folder: Path) -> None:
    pinned = lock(plan.kind.extra)
    with tempfile.TemporaryDirectory(prefix="tlserve-context-") as scratch:
        source = Path(scratch)
        for package in _PACKAGES:
            _copy_package(package, source / package)
        _copy_metadata(source)
        excerpt(plan.bundle, source / "model", plan.choice.kinds)
        _copy_file("bento_service.py", source)
        manifest = plan.bundle.manifest
        build_bento(
            source,
            pinned,
            name=manifest.name.lower(),
            version=manifest.version,
            description=f"# {manifest.name} {manifest.version}\n\n{describe(manifest)}.\n",
            target=folder / _BENTO,
        )
    (folder / _DOCKERFILE).write_text(dockerfile(plan), "utf-8")
    (folder / ".dockerignore").write_text(_IGNORED, "utf-8")
    (folder / "requirements.txt").write_text(pinned, "utf-8")
    (folder / "sbom-requirements.txt").write_text(lock(_SBOM_LOCK), "utf-8")
    _copy_file("slim.py", folder)


def _copy_file(name: str, folder: Path) -> None:
    (folder / name).write_text(read_file(name), "utf-8")


def _copy_package(name: str, target: Path) -> None:
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise MissingDependencyError(
            f"The package {name!r}, a part of tlserve, cannot be found.",
            hint="Install tlserve again.",
        )
    shutil.copytree(
        spec.submodule_search_locations[0], target, ignore=shutil.ignore_patterns("__pycache__")
    )


def _copy_metadata(folder: Path) -> None:
    """Copy what says that tlserve is installed, and which: the list of packages is made from it."""
    try:
        found = importlib.metadata.distribution("tlserve")
    except importlib.metadata.PackageNotFoundError as error:
        raise MissingDependencyError(
            "tlserve runs here without being installed, so that its version and licence are not "
            "known.",
            hint="Install it: pip install --editable .",
        ) from error
    target = folder / f"tlserve-{found.version}.dist-info"
    target.mkdir()
    for name in _METADATA:
        (target / name).write_text(found.read_text(name) or "", "utf-8")


def _readable_by_all(folder: Path) -> None:
    """Give everybody leave to read, and nobody but the owner to write, whatever the umask is."""
    for path in [folder, *folder.rglob("*")]:
        executable = path.is_dir() or os.access(path, os.X_OK)
        path.chmod(0o755 if executable else 0o644)
