"""Writing a bundle: into a hidden sibling, then renamed into place."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tlserve.bundle.files import exchange, flush_to_disk, locked, sha256_of, writing_to
from tlserve.bundle.manifest import (
    FileEntry,
    FileKind,
    Manifest,
    ParitySummary,
    Precision,
    Scalar,
    model_version,
)
from tlserve.bundle.reading import MANIFEST, Bundle
from tlserve.errors import BundleError, StorageError


class StagedBundle:
    """A bundle in the making.

    Attributes:
        path: The hidden directory; write the files here, then :meth:`add` each.
        target: Where :meth:`commit` will put it.
    """

    def __init__(
        self, path: Path, target: Path, base: Bundle | None, *, overwrite: bool = False
    ) -> None:
        self.path = path
        self.target = target
        self._base = base
        self._overwrite = overwrite
        self._entries: dict[str, FileEntry] = dict(base.manifest.files) if base else {}
        self.committed = False

    def fresh(self, name: str) -> Path:
        """Give the path to write a file to.

        A file of that name that was taken along is a hard link to the old bundle's: it is unlinked
        first, so that writing cannot reach the old bundle.
        """
        path = self.path / name
        path.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def add(
        self,
        name: str,
        kind: FileKind,
        *,
        precision: Precision | None = None,
        parity: ParitySummary | None = None,
        details: dict[str, Scalar] | None = None,
    ) -> None:
        """Record a file that has been written to :attr:`path`; again for the same name replaces."""
        path = self.path / name
        self._entries[name] = FileEntry(
            sha256=sha256_of(path),
            bytes=path.stat().st_size,
            kind=kind,
            precision=precision,
            parity=parity,
            details=details or {},
        )

    def drop(self, name: str) -> None:
        """Leave a file out that may have been taken along."""
        (self.path / name).unlink(missing_ok=True)
        self._entries.pop(name, None)

    def entry(self, name: str) -> FileEntry:
        """Give what is recorded of a file."""
        return self._entries[name]

    def manifest(self, **fields: Any) -> Manifest:
        """Build the manifest from the recorded files and the model's description.

        Args:
            **fields: The fields of :class:`Manifest` other than ``version`` and ``files``; those
                not given are the base bundle's.
        """
        if self._base is not None:
            known = {n: getattr(self._base.manifest, n) for n in Manifest.model_fields}
            fields = known | fields
        fields.pop("version", None)
        fields.pop("files", None)
        weights = next(e for e in self._entries.values() if e.kind == "weights")
        draft = Manifest.model_construct(**fields)
        version = model_version(
            weights.sha256,
            draft.architecture,
            draft.classes,
            draft.preprocessing,
            draft.calibration,
        )
        return Manifest(version=version, files=dict(sorted(self._entries.items())), **fields)

    def write_manifest(self, manifest: Manifest) -> Bundle:
        """Write ``bundle.json`` into the staged directory and open it as a bundle."""
        (self.path / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", "utf-8")
        return Bundle.read(self.path)

    def commit(self, manifest: Manifest) -> Bundle:
        """Put the bundle in its place, in one step.

        Raises:
            BundleError: The bundle that this one was derived from has changed in the meantime.
            StorageError: The disk refused, or another process has put something in the place.
        """
        with writing_to(self.target):
            staged = self.write_manifest(manifest)
            files = [self.path / name for name in (*manifest.files, MANIFEST)]
            for path in [*files, *{file.parent for file in files}]:
                flush_to_disk(path)
            # A symbolic link stays one: what it points to is replaced.
            place = self.target.resolve()
            with locked(place.parent):
                if self._base is None:
                    check_target(self.target, overwrite=self._overwrite)
                elif not dataclasses.replace(self._base, path=self.target).is_current():
                    raise BundleError(
                        f"The bundle {self.target} was changed by another process meanwhile.",
                        hint="Nothing was written. Run the command again.",
                    )
                if place.exists():
                    exchange(self.path, place)
                else:
                    self.path.rename(place)
            flush_to_disk(place.parent)
        self.committed = True
        return Bundle(self.target, staged.manifest, staged.manifest_sha256)


def check_target(target: Path, *, overwrite: bool) -> None:
    """Refuse a place that is taken, before any work is done.

    Raises:
        StorageError: Something is there and ``overwrite`` is false, or what is there is no bundle.
    """
    if not target.exists():
        return
    if not overwrite:
        raise StorageError(
            f"{target} exists already.",
            hint="Pass --overwrite to replace it, or another --name.",
        )
    if not (target / MANIFEST).is_file() and not (target.is_dir() and not any(target.iterdir())):
        raise StorageError(
            f"{target} exists and is not a model bundle: it will not be replaced.",
            hint="Choose another --name or --output.",
        )


@contextlib.contextmanager
def stage(
    target: Path, *, base: Bundle | None = None, overwrite: bool = False
) -> Iterator[StagedBundle]:
    """Prepare a bundle that appears at ``target`` whole, when it is committed, or not at all.

    Args:
        target: The bundle's directory.
        base: A bundle to add to; its files are taken along (as hard links where the file system
            can), and it must be the one at ``target``.
        overwrite: Whether an existing bundle at ``target`` may be replaced.

    Raises:
        StorageError: ``target`` is taken, or the disk refused.
    """
    if base is None:
        check_target(target, overwrite=overwrite)
    with writing_to(target):
        place = target.resolve()
        place.parent.mkdir(parents=True, exist_ok=True)
        path = place.with_name(f".{place.name}.{os.getpid()}-{time.time_ns():x}.tmp")
        path.mkdir()
    try:
        with writing_to(target):
            for name in base.manifest.files if base else ():
                _take_along(target / name, path / name)
        with _full_disk_named(target):
            yield StagedBundle(path, target, base, overwrite=overwrite)
    finally:
        # After a commit by exchange, what lies here is the bundle that was replaced.
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _full_disk_named(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        # Other errors may come from whatever the block reads: those keep their own words.
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS):
            raise
        with writing_to(target):
            raise


def _take_along(source: Path, destination: Path) -> None:
    destination.parent.mkdir(parents=True, exist_ok=True)
    try:
        destination.hardlink_to(source)
    except OSError:
        shutil.copy2(source, destination)
