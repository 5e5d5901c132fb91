"""A bundle that is not what was written is refused, and the error says which part."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.bundles import description, write_plain
from tlserve.bundle import Bundle, stage
from tlserve.bundle.manifest import json_schema
from tlserve.errors import (
    BundleError,
    BundleFileError,
    BundleNotFoundError,
    BundleSchemaError,
    ChecksumError,
)

Edit = Callable[[dict[str, Any]], object]


def edit(bundle: Bundle, change: Edit) -> None:
    path = bundle.path / "bundle.json"
    content = json.loads(path.read_text("utf-8"))
    change(content)
    path.write_text(json.dumps(content), "utf-8")


def test_what_was_written_is_read(tmp_path: Path) -> None:
    written = write_plain(tmp_path / "insects")
    read = Bundle.read(tmp_path / "insects")
    assert read == written
    read.verify()
    assert read.names("golden-image") == ["golden/a.png"]
    assert read.verified("weights").read_bytes() == b"weights"
    assert read.manifest.training == description()["training"]
    assert isinstance(read.manifest.training["amp"], bool)


@pytest.mark.parametrize(
    "make", [Path.mkdir, Path.touch, lambda path: (path / "bundle.json").mkdir(parents=True)]
)
def test_a_place_without_a_bundle(tmp_path: Path, make: Callable[[Path], object]) -> None:
    for path in tmp_path / "absent", tmp_path / "present":
        with pytest.raises(BundleNotFoundError, match=f"{path.name}.*no bundle.json"):
            Bundle.read(path)
        if path.name == "absent":
            make(tmp_path / "present")


def test_an_unknown_schema_version_is_named(tmp_path: Path) -> None:
    bundle = write_plain(tmp_path / "b")
    edit(bundle, lambda content: content.update(schema_version=2, brand_new=True))
    with pytest.raises(BundleSchemaError, match="schema version 2; this tlserve reads version 1"):
        Bundle.read(bundle.path)


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe", b"nonsense", b"[" * 100_000])
def test_invalid_json(tmp_path: Path, text: bytes) -> None:
    bundle = write_plain(tmp_path / "b")
    (bundle.path / "bundle.json").write_bytes(text)
    with pytest.raises(BundleSchemaError, match=r"bundle\.json is not valid JSON"):
        Bundle.read(bundle.path)


@pytest.mark.parametrize("text", [b"[]", b"null", b"3", b"{}"])
def test_json_that_is_no_manifest(tmp_path: Path, text: bytes) -> None:
    bundle = write_plain(tmp_path / "b")
    (bundle.path / "bundle.json").write_bytes(text)
    with pytest.raises(BundleSchemaError, match="schema version None"):
        Bundle.read(bundle.path)


def _first_to(content: dict[str, Any], name: str) -> None:
    content["files"][name] = content["files"].pop("golden/a.png")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(surprise=1), "surprise: Extra inputs"),
        (lambda c: c.pop("head"), "head: Field required"),
        (lambda c: c.update(name="../evil"), "name: String should match"),
        (lambda c: c.update(classes=["ant"]), "classes: Tuple should have at least 2"),
        (lambda c: c.update(classes=["ant", "ant"]), "two classes have the same name"),
        (lambda c: c.update(classes=["a", "b", "c"]), "2 outputs for 3 classes"),
        (lambda c: c["preprocessing"].update(resize=[0]), r"preprocessing\.resize"),
        (lambda c: c["preprocessing"].update(std=[1, 0, 1]), r"preprocessing\.std\.1"),
        (lambda c: c["preprocessing"].update(colour="BGR"), r"preprocessing\.colour"),
        (lambda c: c["preprocessing"]["decoding"].update(max_pixels=10**9), "max_pixels"),
        (lambda c: c["calibration"].update(temperature=-1), r"calibration\.temperature"),
        (lambda c: c["metrics"].update(val_loss=float("nan")), r"metrics\.val_loss"),
        (lambda c: c["files"]["golden/a.png"].update(sha256="abc"), r"golden/a\.png\.sha256"),
        (lambda c: c["files"]["golden/a.png"].update(kind="weights"), "one file of kind 'weights'"),
        (lambda c: _first_to(c, "../x"), "'../x' is not a relative path inside"),
        (lambda c: _first_to(c, "/etc/hostname"), "'/etc/hostname' is not a relative path"),
        (lambda c: _first_to(c, "golden/../../x"), "is not a relative path inside"),
        (lambda c: _first_to(c, "golden//a.png"), "is not a relative path inside"),
    ],
)
def test_a_manifest_that_breaks_the_schema(tmp_path: Path, change: Edit, message: str) -> None:
    bundle = write_plain(tmp_path / "b")
    edit(bundle, change)
    with pytest.raises(BundleSchemaError, match=message):
        Bundle.read(bundle.path)


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.update(classes=["bee", "ant"]),
        lambda c: c.update(architecture="resnet18"),
        lambda c: c["preprocessing"].update(mean=[0.5, 0.5, 0.5]),
        lambda c: c["preprocessing"]["decoding"].update(jpeg_draft=2),
        lambda c: c["calibration"].update(temperature=2),
        lambda c: c["files"]["weights.safetensors"].update(sha256="1" * 64),
        lambda c: c.update(version="0" * 12),
    ],
    ids=["classes", "architecture", "mean", "draft", "temperature", "weights", "version"],
)
def test_a_hand_edited_identity_is_found(tmp_path: Path, change: Edit) -> None:
    bundle = write_plain(tmp_path / "b")
    edit(bundle, change)
    with pytest.raises(BundleSchemaError, match="changed by hand"):
        Bundle.read(bundle.path)


def test_the_version_is_of_the_answers_only(tmp_path: Path) -> None:
    bundle = write_plain(tmp_path / "b")
    edit(bundle, lambda c: c["training"].update(epochs=99))
    assert Bundle.read(bundle.path).manifest.version == bundle.manifest.version


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    bundle = write_plain(tmp_path / "b")
    (bundle.path / "golden" / "a.png").unlink()
    with pytest.raises(BundleFileError, match=r"missing the file golden/a\.png"):
        Bundle.read(bundle.path)
    with pytest.raises(BundleFileError, match=r"missing the file golden/a\.png"):
        bundle.verify()
    bundle.verify(["weights.safetensors"])


def test_an_altered_file_is_named_with_both_hashes(tmp_path: Path) -> None:
    bundle = write_plain(tmp_path / "b")
    (bundle.path / "golden" / "a.png").write_bytes(b"Weights")
    read = Bundle.read(bundle.path)
    with pytest.raises(ChecksumError, match=r"golden/a\.png") as caught:
        read.verify()
    assert bundle.manifest.files["golden/a.png"].sha256 in str(caught.value)
    read.verify(["weights.safetensors"])
    with pytest.raises(ChecksumError):
        read.verified("golden-image")


@pytest.mark.parametrize("kind", ["onnx", "torchscript"])
def test_what_was_never_exported_comes_with_the_command(tmp_path: Path, kind: Any) -> None:
    bundle = write_plain(tmp_path / "b")
    with pytest.raises(BundleFileError, match=f"no file of kind '{kind}'") as caught:
        bundle.verified(kind)
    assert caught.value.hint == f"Make it with `tlserve export {bundle.path} --{kind}`."


def test_a_replaced_bundle_is_told_from_an_altered_one(tmp_path: Path) -> None:
    old = write_plain(tmp_path / "b", b"old")
    write_plain(tmp_path / "b", b"new", overwrite=True)
    assert not old.is_current()
    with pytest.raises(BundleError, match="replaced by another process") as caught:
        old.verify()
    assert not isinstance(caught.value, (ChecksumError, BundleFileError))


def test_the_published_schema_is_the_codes(repository: Path) -> None:
    published = (repository / "docs" / "schema" / "bundle.v1.schema.json").read_text("utf-8")
    printed = subprocess.run(
        [sys.executable, "-m", "tlserve.bundle"], check=True, capture_output=True, text=True
    )
    assert printed.stderr == ""
    assert published == printed.stdout, "run the command that docs/bundle.md gives"
    assert json.loads(published) == json_schema()


def test_a_bundle_follows_the_published_schema(repository: Path, tmp_path: Path) -> None:
    schema = json.loads((repository / "docs" / "schema" / "bundle.v1.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    bundle = write_plain(tmp_path / "b")
    content = json.loads((bundle.path / "bundle.json").read_text("utf-8"))
    validator.validate(content)
    for broken in (
        content | {"schema_version": 2},
        content | {"surprise": 1},
        content | {"version": "xyz"},
        {k: v for k, v in content.items() if k != "classes"},
        content | {"preprocessing": content["preprocessing"] | {"crop": [32]}},
    ):
        with pytest.raises(jsonschema.ValidationError):
            validator.validate(broken)


def test_names_of_classes_keep_their_letters(tmp_path: Path) -> None:
    classes = ("Ameise 🐜", "蜂", 'a "quoted"\\ one')
    with stage(tmp_path / "b") as staged:
        staged.fresh("weights.safetensors").write_bytes(b"w")
        staged.add("weights.safetensors", "weights")
        staged.commit(staged.manifest(**description(classes)))
    assert Bundle.read(tmp_path / "b").manifest.classes == classes
