"""Results on disk under a key of everything that they depend on, within a budget."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

_KEY = "key.json"
_SPARE = 10**9
"""Bytes of the disk that are left free."""

_ABANDONED_AFTER = 60.0
"""Seconds after which an unfinished entry that nobody has locked is one that a crash left."""


class DiskCache:
    """Folders of files, each written whole or not at all, and never changed afterwards.

    Attributes:
        folder: Where they are; it need not exist.
        budget: The bytes that they may take, those of ``beside`` included.
    """

    def __init__(self, folder: Path, budget: int, *, beside: Sequence[Path] = ()) -> None:
        """Use a folder.

        Args:
            folder: It need not exist.
            budget: The bytes that all entries may take.
            beside: Folders of other caches that share the budget.
        """
        self.folder = folder
        self.budget = budget
        self._folders = (folder, *beside)

    def room(self) -> int:
        """Give the bytes that entries may take: the budget, or what the disk has."""
        existing = next(p for p in (self.folder, *self.folder.resolve().parents) if p.exists())
        return min(self.budget, max(0, shutil.disk_usage(existing).free - _SPARE))

    def find(self, facts: Mapping[str, Any]) -> Path | None:
        """Give the folder of the entry for some facts, which is then the last one used."""
        place = self._place(facts)
        if not (place / _KEY).is_file():
            return None
        os.utime(place)
        return place

    def keep(self, facts: Mapping[str, Any], size: int, fill: Callable[[Path], None]) -> Path:
        """Make an entry, and room for it.

        Args:
            facts: Everything that it depends on.
            size: Its bytes.
            fill: Writes its files into the folder that it is given.

        Returns:
            The entry's folder; where another run has made the same meanwhile, that one's.

        Raises:
            OSError: The disk refused.
        """
        place = self._place(facts)
        self._make_room(size)
        self.folder.mkdir(parents=True, exist_ok=True)
        with _unfinished(self.folder) as temporary:
            fill(temporary)
            (temporary / _KEY).write_text(json.dumps(facts, indent=1), "utf-8")
            try:
                temporary.rename(place)
            except OSError:
                # Another run has computed the same meanwhile: its results will do.
                if not (place / _KEY).is_file():
                    raise
        return place

    def _place(self, facts: Mapping[str, Any]) -> Path:
        content = json.dumps(facts, sort_keys=True)
        return self.folder / hashlib.sha256(content.encode()).hexdigest()[:20]

    def _make_room(self, needed: int) -> None:
        """Delete what was not used for longest, until the budget holds."""
        for folder in self._folders:
            _remove_abandoned(folder)
        places = [path.parent for f in self._folders for path in f.glob(f"*/{_KEY}")]
        places.sort(key=lambda path: path.stat().st_mtime)
        sizes = {place: sum(f.stat().st_size for f in place.iterdir()) for place in places}
        while places and sum(sizes[place] for place in places) + needed > self.budget:
            # Whoever has it open can go on reading it.
            shutil.rmtree(places.pop(0), ignore_errors=True)


def reserve(path: Path, size: int) -> None:
    """Take a file's space from the disk at once.

    A memory map that finds the disk full later ends the process.

    Raises:
        OSError: There is not as much.
    """
    with path.open("r+b") as handle:
        os.posix_fallocate(handle.fileno(), 0, size)


@contextlib.contextmanager
def _unfinished(folder: Path) -> Iterator[Path]:
    """Make a folder that is locked while it is written to, and gone afterwards."""
    temporary = Path(tempfile.mkdtemp(prefix=".", dir=folder))
    descriptor = os.open(temporary, os.O_RDONLY)
    try:
        # Where the file system has no locks, abandoned folders stay.
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield temporary
    finally:
        os.close(descriptor)
        shutil.rmtree(temporary, ignore_errors=True)


def _remove_abandoned(folder: Path) -> None:
    for place in folder.glob(".*"):
        with contextlib.suppress(OSError):
            if time.time() - place.stat().st_mtime < _ABANDONED_AFTER:
                continue
            descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(place)
            finally:
                os.close(descriptor)
