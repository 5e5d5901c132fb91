"""A copy of a part of a bundle is a bundle, and says what it is without."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from export.verify import verify
from tlserve.bundle import Bundle
from tlserve.bundle.excerpt import excerpt
from tlserve.bundle.manifest import FileKind
from tlserve.errors import BundleFileError, BundleSchemaError, ChecksumError, StorageError
from tlserve.runtime import Predictor

KINDS: frozenset[FileKind] = frozenset(
    ["onnx", "golden-image", "golden-logits", "golden-answers", "parity"]
)


def test_it_has_those_files_and_the_name_of_the_whole(exported: Path, tmp_path: Path) -> None:
    whole = Bundle.read(exported)
    part = excerpt(whole, tmp_path / "part", KINDS)
    files = {p.relative_to(part.path).as_posix() for p in part.path.rglob("*") if p.is_file()}
    assert files == {*part.manifest.files, "bundle.json"}
    assert {entry.kind for entry in part.manifest.files.values()} == KINDS
    assert part.manifest.version == whole.manifest.version
    together = part.manifest.files | part.manifest.left_out
    assert together == whole.manifest.files
    assert "weights.safetensors" in part.manifest.left_out
    part.verify()


def test_it_is_verified_and_answers_as_the_whole(
    exported: Path, colours: Path, tmp_path: Path
) -> None:
    whole = Bundle.read(exported)
    part = excerpt(whole, tmp_path / "part", KINDS)
    (outcome,) = verify(part)
    assert outcome.format == "onnx"
    assert outcome.passed
    assert "does not say which images validated" in outcome.level("decisions").remark
    image = (colours / "val" / "red" / "101.jpg").read_bytes()
    expected = Predictor.load(whole).predict([image])
    assert Predictor.load(part).predict([image]) == expected


def test_what_is_left_out_is_said(exported: Path, tmp_path: Path) -> None:
    part = excerpt(Bundle.read(exported), tmp_path / "part", KINDS)
    with pytest.raises(BundleFileError, match="a copy of a bundle without its file of kind 'pt2'"):
        part.verified("pt2")


def test_a_part_of_a_part_still_names_all(exported: Path, tmp_path: Path) -> None:
    whole = Bundle.read(exported)
    part = excerpt(whole, tmp_path / "part", KINDS)
    smaller = excerpt(part, tmp_path / "smaller", KINDS - {"parity"})
    assert smaller.manifest.files | smaller.manifest.left_out == whole.manifest.files


def test_an_altered_file_is_not_copied(exported: Path, tmp_path: Path) -> None:
    altered = tmp_path / "altered"
    shutil.copytree(exported, altered)
    model = altered / "model.onnx"
    data = bytearray(model.read_bytes())
    data[len(data) // 2] ^= 1
    model.write_bytes(data)
    with pytest.raises(ChecksumError, match=r"model\.onnx"):
        excerpt(Bundle.read(altered), tmp_path / "part", KINDS)
    assert not (tmp_path / "part").exists()


def test_the_version_is_checked_against_what_was_left_out(exported: Path, tmp_path: Path) -> None:
    part = excerpt(Bundle.read(exported), tmp_path / "part", KINDS)
    path = part.path / "bundle.json"
    manifest = json.loads(path.read_text("utf-8"))
    manifest["left_out"]["weights.safetensors"]["sha256"] = "0" * 64
    path.write_text(json.dumps(manifest), "utf-8")
    with pytest.raises(BundleSchemaError, match="does not belong to these weights"):
        Bundle.read(part.path)
    manifest["left_out"]["model.onnx"] = manifest["files"]["model.onnx"]
    path.write_text(json.dumps(manifest), "utf-8")
    with pytest.raises(BundleSchemaError, match="both listed and left out"):
        Bundle.read(part.path)


def test_a_place_that_is_taken_is_left_alone(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "note").write_text("mine")
    with pytest.raises(StorageError, match="exists already"):
        excerpt(Bundle.read(exported), tmp_path / "part", KINDS)
    assert (tmp_path / "part" / "note").read_text() == "mine"
