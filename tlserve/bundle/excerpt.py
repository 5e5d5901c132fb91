"""Copying a part of a bundle: what one purpose needs, and a manifest that says what is missing."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path

from tlserve.bundle.manifest import FileKind, Manifest
from tlserve.bundle.reading import Bundle
from tlserve.bundle.staging import stage


def excerpt(bundle: Bundle, target: Path, kinds: Collection[FileKind]) -> Bundle:
    """Copy the files of some kinds, their hashes compared, into a bundle of its own.

    Its manifest is the bundle's, with the other files under ``left_out``: name and version are the
    same, and what they were computed from can still be checked.

    Args:
        bundle: What is copied from.
        target: The directory of the copy.
        kinds: Which files.

    Raises:
        BundleError: A file is missing, or not the one that was written.
        StorageError: ``target`` is taken, or the disk refused.
    """
    entries = bundle.manifest.files
    names = sorted(name for name, entry in entries.items() if entry.kind in kinds)
    with stage(target) as staged:
        for name in names:
            # Copied first: what is compared is what will be used.
            shutil.copyfile(bundle.file(name), staged.fresh(name))
        parts = {
            "files": {name: entries[name] for name in names},
            "left_out": bundle.manifest.left_out
            | {name: entry for name, entry in entries.items() if name not in names},
        }
        manifest = Manifest.model_validate(dict(bundle.manifest) | parts)
        staged.write_manifest(manifest).verify()
        return staged.commit(manifest)
