"""Broken images are found before training, and named."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bundles import SPEC
from tests.folders import write_flat
from tlserve.data.check import check_images, fingerprint
from tlserve.data.folder import scan
from tlserve.errors import DataError


def _spoil(root: Path) -> None:
    path = root / "red" / "001.jpg"
    path.write_bytes(path.read_bytes()[:-200])
    (root / "blue" / "000.png").write_text("this is no image")


def test_broken_images_are_left_out_and_named(tmp_path: Path) -> None:
    write_flat(tmp_path, 4)
    _spoil(tmp_path)
    seen = []
    checked = check_images(scan(tmp_path), SPEC, advance=lambda: seen.append(1))
    assert {p.path for p in checked.problems} == {"red/001.jpg", "blue/000.png"}
    assert any("truncated" in p.reason for p in checked.problems)
    assert len(checked.folder.train) == 10
    assert len(seen) == 12


def test_strict_makes_them_an_error(tmp_path: Path) -> None:
    write_flat(tmp_path, 4)
    _spoil(tmp_path)
    with pytest.raises(DataError, match=r"2 files .*\n.*blue/000.png"):
        check_images(scan(tmp_path), SPEC, strict=True)


def test_a_class_that_has_no_readable_image_left_is_an_error(tmp_path: Path) -> None:
    write_flat(tmp_path, 2)
    for path in (tmp_path / "green").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match="no readable image of the class green"):
        check_images(scan(tmp_path), SPEC)


def test_the_fingerprint_changes_with_a_byte_and_with_a_name(tmp_path: Path) -> None:
    write_flat(tmp_path, 2)
    first = fingerprint(check_images(scan(tmp_path), SPEC).sha256)
    assert first == fingerprint(check_images(scan(tmp_path), SPEC).sha256)
    (tmp_path / "red" / "000.png").rename(tmp_path / "red" / "renamed.png")
    second = fingerprint(check_images(scan(tmp_path), SPEC).sha256)
    data = (tmp_path / "red" / "001.jpg").read_bytes()
    (tmp_path / "red" / "001.jpg").write_bytes(data + b"\0")
    third = fingerprint(check_images(scan(tmp_path), SPEC).sha256)
    assert len({first, second, third}) == 3
