"""The layouts of an image folder, right and wrong."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.folders import write_class, write_flat, write_parts
from tlserve.data.folder import scan
from tlserve.errors import DataError


def test_classes_are_sorted_and_shared_by_both_parts(tmp_path: Path) -> None:
    folder = scan(write_parts(tmp_path, train=3, val=2))
    assert folder.classes == ("blue", "green", "red")
    assert len(folder.train) == 9
    assert folder.val is not None
    assert {(s.path.split("/")[1], folder.classes[s.label]) for s in folder.val} == {
        (name, name) for name in folder.classes
    }


def test_a_flat_folder_has_no_validation_part(tmp_path: Path) -> None:
    folder = scan(write_flat(tmp_path, 3))
    assert folder.val is None
    assert len(folder.train) == 9


def test_a_class_without_validation_images_keeps_the_indices(tmp_path: Path) -> None:
    write_parts(tmp_path, train=2, val=2)
    shutil.rmtree(tmp_path / "val" / "blue")
    folder = scan(tmp_path)
    assert folder.empty_validation == ("blue",)
    assert folder.val is not None
    assert {(s.path.split("/")[1], s.label) for s in folder.val} == {("green", 1), ("red", 2)}


def test_other_files_are_ignored_and_named(tmp_path: Path) -> None:
    write_flat(tmp_path, 2)
    (tmp_path / "red" / "notes.txt").write_text("not an image")
    (tmp_path / "red" / ".DS_Store").write_text("hidden")
    (tmp_path / "red" / "000.png").rename(tmp_path / "red" / "UPPER.PNG")
    folder = scan(tmp_path)
    assert folder.ignored == ("red/notes.txt",)
    assert "red/UPPER.PNG" in {s.path for s in folder.train}


def test_valid_and_validation_are_val(tmp_path: Path) -> None:
    write_parts(tmp_path, train=2, val=1)
    (tmp_path / "val").rename(tmp_path / "valid")
    folder = scan(tmp_path)
    assert folder.val is not None
    assert len(folder.val) == 3


def _missing(root: Path) -> Path:
    return root / "nowhere"


def _empty(root: Path) -> Path:
    return root


def _one_class(root: Path) -> Path:
    write_class(root, "red", 2)
    return root


def _class_without_images(root: Path) -> Path:
    write_flat(root, 2)
    (root / "yellow").mkdir()
    return root


def _stranger_in_val(root: Path) -> Path:
    write_parts(root, 2, 2)
    shutil.rmtree(root / "train" / "green")
    return root


def _train_only(root: Path) -> Path:
    write_parts(root, 2, 2)
    shutil.rmtree(root / "val")
    return root


def _empty_val(root: Path) -> Path:
    write_parts(root, 2, 2)
    shutil.rmtree(root / "val")
    (root / "val").mkdir()
    return root


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (_missing, "There is no folder"),
        (_empty, "has no class folders"),
        (_one_class, "one class only, 'red'"),
        (_class_without_images, "no images of the class yellow"),
        (_stranger_in_val, "has the class green, which .*train lacks"),
        (_train_only, "has train/ but no val/"),
        (_empty_val, "val has no images"),
    ],
)
def test_a_wrong_layout_is_named(tmp_path: Path, prepare: object, message: str) -> None:
    assert callable(prepare)
    with pytest.raises(DataError, match=message):
        scan(prepare(tmp_path))
