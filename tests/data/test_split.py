"""The split: stratified, seeded, recorded."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.folders import write_class, write_flat
from tlserve.data.folder import scan
from tlserve.data.split import read_part, split, write_split
from tlserve.errors import BundleFileError, DataError


def test_each_class_gives_its_share(tmp_path: Path) -> None:
    write_class(tmp_path, "red", 20)
    write_class(tmp_path, "blue", 10)
    parts = split(scan(tmp_path), 0.2, seed=1)
    assert Counter(s.label for s in parts.val) == {0: 2, 1: 4}
    assert not {s.path for s in parts.train} & {s.path for s in parts.val}
    assert len(parts.train) + len(parts.val) == 30


def test_a_rare_class_is_on_both_sides(tmp_path: Path) -> None:
    write_class(tmp_path, "red", 20)
    write_class(tmp_path, "blue", 2)
    parts = split(scan(tmp_path), 0.05, seed=1)
    assert Counter(s.label for s in parts.val)[0] == 1
    assert Counter(s.label for s in parts.train)[0] == 1


def test_the_seed_decides(tmp_path: Path) -> None:
    folder = scan(write_flat(tmp_path, 10))
    assert split(folder, 0.3, 5) == split(folder, 0.3, 5)
    assert split(folder, 0.3, 5) != split(folder, 0.3, 6)


def test_one_image_cannot_be_split(tmp_path: Path) -> None:
    write_class(tmp_path, "red", 4)
    write_class(tmp_path, "blue", 1)
    with pytest.raises(DataError, match="'blue' has one readable image"):
        split(scan(tmp_path), 0.2, 0)


def test_what_is_recorded_is_read_back(tmp_path: Path) -> None:
    folder = scan(write_flat(tmp_path / "data", 4))
    parts = split(folder, 0.25, 0)
    hashes = {s.path: f"{n:064x}" for n, s in enumerate(folder.train)}
    write_split(tmp_path / "split.json", parts, hashes)
    samples, found = read_part(tmp_path / "split.json", "val")
    assert tuple(samples) == parts.val
    assert found == {s.path: hashes[s.path] for s in parts.val}


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "split.json").write_text('{"train": []}')
    with pytest.raises(BundleFileError, match="not a recorded split"):
        read_part(tmp_path / "split.json", "val")
