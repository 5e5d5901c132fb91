"""Entries on disk: written whole or not at all, within a budget."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from tlserve.data.disk_cache import DiskCache, reserve


def _entry(cache: DiskCache, name: str, size: int) -> Path:
    return cache.keep({"name": name}, size, lambda folder: _write(folder, size))


def _write(folder: Path, size: int) -> None:
    (folder / "content").write_bytes(bytes(size))


def test_an_entry_is_found_by_everything_it_depends_on(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path / "cache", 10_000)
    place = _entry(cache, "a", 100)
    assert cache.find({"name": "a"}) == place
    assert cache.find({"name": "b"}) is None
    assert cache.find({"name": "a", "more": 1}) is None


def test_what_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        _write(folder, 100)
        raise OSError(28, "No space left on device")

    cache = DiskCache(tmp_path, 10_000)
    with pytest.raises(OSError, match="No space left"):
        cache.keep({"name": "a"}, 100, fail)
    assert list(tmp_path.iterdir()) == []


def test_caches_that_share_a_budget_make_room_for_each_other(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    one, other = DiskCache(first, 5000, beside=[second]), DiskCache(second, 5000, beside=[first])
    old, new = _entry(one, "old", 2000), _entry(other, "new", 2000)
    os.utime(old, (1, 1))
    third = _entry(other, "third", 2000)
    assert [p.exists() for p in (old, new, third)] == [False, True, True]


def test_whoever_finishes_second_takes_what_is_there(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, 10_000)

    def overtaken(folder: Path) -> None:
        _entry(DiskCache(tmp_path, 10_000), "a", 50)
        _write(folder, 100)

    place = cache.keep({"name": "a"}, 100, overtaken)
    assert (place / "content").stat().st_size == 50
    assert list(tmp_path.iterdir()) == [place]


def test_what_a_crash_left_is_removed_and_what_is_being_written_is_not(tmp_path: Path) -> None:
    for name in (".crashed", ".written"):
        (tmp_path / name).mkdir()
        _write(tmp_path / name, 10)
        os.utime(tmp_path / name, (1, 1))
    (tmp_path / ".begun").mkdir()
    descriptor = os.open(tmp_path / ".written", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        place = _entry(DiskCache(tmp_path, 10_000), "a", 10)
    finally:
        os.close(descriptor)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {".written", ".begun", place.name}


def test_space_is_taken_at_once_or_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    reserve(file, 100_000)
    assert file.stat().st_blocks * 512 >= 100_000
    with pytest.raises(OSError, match=r"(No space left|File too large)"):
        reserve(file, 2**60)
