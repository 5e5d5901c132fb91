"""Weights that do not fit into one ONNX file lie in a second one, which is checked as the first."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from export import onnx as onnx_format
from export.run import export
from tlserve.bundle import Bundle
from tlserve.errors import BundleFileError, ChecksumError
from tlserve.runtime import Predictor
from tlserve.runtime.backend import load_backend

DATA = "model.onnx.data"


@pytest.fixture
def bundle(trained: Path, tmp_path: Path) -> Path:
    """A copy that may be changed."""
    copy = tmp_path / "models" / "colours"
    shutil.copytree(trained, copy)
    return copy


@pytest.fixture
def split(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, exported as if its weights were too large for one file."""
    monkeypatch.setattr(onnx_format, "MAX_WEIGHTS_IN_FILE", 1_000_000)
    export(bundle, ["onnx"])
    monkeypatch.undo()
    return bundle


def test_a_model_that_fits_is_one_file(exported: Path) -> None:
    assert Bundle.read(exported).names("onnx-data") == []
    assert not (exported / DATA).exists()


def test_the_data_are_recorded_beside_the_model(split: Path, trained: Path) -> None:
    bundle = Bundle.read(split)
    bundle.verify()
    assert bundle.names("onnx-data") == [DATA]
    weights = Bundle.read(trained).manifest.files["weights.safetensors"].bytes
    assert bundle.manifest.files[DATA].bytes == pytest.approx(weights, rel=0.02)
    assert bundle.manifest.files["model.onnx"].bytes < 1_000_000
    (result,) = json.loads(bundle.verified("parity").read_text())["results"]
    assert result["companions"] == {DATA: bundle.manifest.files[DATA].sha256}
    described = json.loads(load_backend(bundle, "onnx").description or "")
    assert described["classes"] == ["blue", "green", "red"]


def test_it_answers_as_the_trained_model_does(split: Path, colours: Path) -> None:
    image = (colours / "val" / "red" / "101.jpg").read_bytes()
    eager, onnx = (
        Predictor.load(Bundle.read(split), name).predict([image])[0] for name in ("eager", "onnx")
    )
    assert [p.label for p in onnx] == [p.label for p in eager]
    assert [p.probability for p in onnx] == pytest.approx([p.probability for p in eager], abs=1e-5)


def test_altered_data_are_refused_before_they_are_loaded(split: Path) -> None:
    with (split / DATA).open("r+b") as file:
        file.seek(-4, 2)
        file.write(np.float32(0.5).tobytes())
    with pytest.raises(ChecksumError, match=rf"{DATA} .* is not the one that was written"):
        load_backend(Bundle.read(split), "onnx")
    with pytest.raises(ChecksumError, match=DATA):
        Bundle.read(split).verify()


def test_missing_data_are_named(split: Path) -> None:
    (split / DATA).unlink()
    with pytest.raises(BundleFileError, match=f"missing the file {DATA}"):
        Bundle.read(split)


def test_another_export_replaces_the_data(split: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (split / DATA).stat().st_ino
    monkeypatch.setattr(onnx_format, "MAX_WEIGHTS_IN_FILE", 1_000_000)
    export(split, ["onnx"])
    assert (split / DATA).stat().st_ino != before
    bundle = Bundle.read(split)
    bundle.verify()
    assert bundle.names("onnx-data") == [DATA]


def test_an_export_that_needs_no_data_leaves_none(split: Path) -> None:
    export(split, ["onnx"])
    bundle = Bundle.read(split)
    bundle.verify()
    assert bundle.names("onnx-data") == []
    assert not (split / DATA).exists()
    (result,) = json.loads(bundle.verified("parity").read_text())["results"]
    assert result["companions"] == {}


def test_another_format_leaves_the_data_alone(split: Path) -> None:
    export(split, ["torchscript"])
    bundle = Bundle.read(split)
    bundle.verify()
    assert bundle.names("onnx-data") == [DATA]
    load_backend(bundle, "onnx")
