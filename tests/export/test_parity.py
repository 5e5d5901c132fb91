"""Parity passes for a true export and fails for every spoiled one, the bundle unchanged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from export.formats import FORMATS, FormatName
from export.run import Parity, Progress, export
from tests.export.mutations import (
    FILE_CHANGES,
    METADATA_CHANGES,
    MODEL_CHANGES,
    with_changed_metadata,
    with_changed_model,
)
from tlserve.bundle import Bundle, stage
from tlserve.bundle.files import sha256_of
from tlserve.errors import DataError, ExportError, ParityError

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")


class Recorder(Progress):
    """Keeps the outcome."""

    def __init__(self) -> None:
        self.results: list[Parity] = []

    def parity(self, results: Sequence[Parity]) -> None:
        self.results = list(results)

    def failed_levels(self) -> set[str]:
        return {x.name for r in self.results for x in r.levels if x.passed is False}


@pytest.fixture
def bundle(trained: Path, tmp_path: Path) -> Path:
    """A copy that may be changed."""
    copy = tmp_path / "models" / "colours"
    shutil.copytree(trained, copy)
    return copy


def _hashes(folder: Path) -> dict[str, str]:
    files = [p for p in folder.parent.rglob("*") if p.is_file()]
    return {str(p.relative_to(folder.parent)): sha256_of(p) for p in files}


def _expect_failure(
    bundle: Path, name: FormatName, write: object, monkeypatch: pytest.MonkeyPatch
) -> set[str]:
    """Export with another writer; see it refused and the bundle unchanged; name the levels."""
    monkeypatch.setitem(FORMATS, name, replace(FORMATS[name], write=write))  # type: ignore[arg-type]
    before = _hashes(bundle)
    recorder = Recorder()
    with pytest.raises(ParityError, match=FORMATS[name].file):
        export(bundle, [name], progress=recorder)
    assert _hashes(bundle) == before
    return recorder.failed_levels()


def test_a_true_export_passes_every_level_and_is_recorded(exported: Path) -> None:
    bundle = Bundle.read(exported)
    bundle.verify()
    report = json.loads(bundle.verified("parity").read_text())
    assert {r["format"] for r in report["results"]} == set(get_args(FormatName))
    for result in report["results"]:
        assert result["sha256"] == bundle.manifest.files[result["file"]].sha256
        assert {level["name"]: level["passed"] for level in result["levels"]} == {
            "description": True,
            "numbers": True,
            "decisions": True,
            "bytes": True,
        }
        entry = bundle.manifest.files[result["file"]]
        assert entry.parity is not None
        assert entry.parity.decisions_compared == 12
        assert 0 < entry.parity.max_abs_diff <= entry.parity.tolerance


def test_one_format_after_the_other_keeps_both(bundle: Path) -> None:
    export(bundle, ["onnx"])
    result = export(bundle, ["torchscript"])
    report = json.loads(result.verified("parity").read_text())
    assert [r["format"] for r in report["results"]] == ["onnx", "torchscript"]
    result.verify()


def test_the_onnx_file_is_complete_by_itself(exported: Path, tmp_path: Path) -> None:
    import onnxruntime

    alone = tmp_path / "model.onnx"
    shutil.copy(exported / "model.onnx", alone)
    session = onnxruntime.InferenceSession(alone, providers=["CPUExecutionProvider"])
    description = json.loads(session.get_modelmeta().custom_metadata_map["tlserve"])
    assert description["classes"] == ["blue", "green", "red"]
    assert description["preprocessing"]["crop"] == [32, 32]
    assert session.get_inputs()[0].shape == ["batch", 3, 32, 32]
    for size in (1, 5):
        (logits,) = session.run(None, {"images": np.zeros((size, 3, 32, 32), np.float32)})
        assert logits.shape == (size, 3)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        (name, change)
        for name in get_args(FormatName)
        for change in MODEL_CHANGES
        if (name, change) != ("onnx", "training mode")
    ],
)
def test_another_model_is_caught(
    bundle: Path, name: FormatName, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = with_changed_model(FORMATS[name].write, MODEL_CHANGES[change])
    assert {"numbers", "bytes"} <= _expect_failure(bundle, name, write, monkeypatch)


@pytest.mark.parametrize("name", get_args(FormatName))
@pytest.mark.parametrize("change", METADATA_CHANGES)
def test_another_description_is_caught(
    bundle: Path, name: FormatName, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = with_changed_metadata(FORMATS[name].write, METADATA_CHANGES[change])
    assert _expect_failure(bundle, name, write, monkeypatch) == {"description"}


@pytest.mark.parametrize("change", FILE_CHANGES)
def test_a_spoiled_file_is_caught(
    bundle: Path, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, write = FILE_CHANGES[change]
    assert "numbers" in _expect_failure(bundle, name, write, monkeypatch)


def test_an_altered_mean_in_the_bundle_is_caught_by_the_golden_images(bundle: Path) -> None:
    """Even where the manifest was made consistent again, the recorded answers no longer hold."""
    old = Bundle.read(bundle)
    with stage(bundle, base=old) as staged:
        spec = old.manifest.preprocessing.model_copy(update={"mean": (0.5, 0.5, 0.5)})
        staged.commit(staged.manifest(preprocessing=spec))
    recorder = Recorder()
    with pytest.raises(ParityError, match="level bytes"):
        export(bundle, ["onnx"], progress=recorder)
    assert recorder.failed_levels() == {"bytes"}


def test_a_model_that_says_the_same_of_everything_proves_nothing(bundle: Path) -> None:
    old = Bundle.read(bundle)
    state = load_file(bundle / "weights.safetensors")
    state["fc.weight"] = torch.zeros_like(state["fc.weight"])
    with stage(bundle, base=old) as staged:
        save_file(state, staged.fresh("weights.safetensors"))
        staged.add("weights.safetensors", "weights", precision="float32")
        staged.commit(staged.manifest())
    with pytest.raises(ParityError, match="meaningless"):
        export(bundle, ["onnx"])


def test_an_exporter_that_throws_leaves_the_bundle(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def throwing(*_: object) -> dict[str, str]:
        raise RuntimeError("operator xyz is not supported\nwith details")

    monkeypatch.setitem(FORMATS, "onnx", replace(FORMATS["onnx"], write=throwing))  # type: ignore[arg-type]
    before = _hashes(bundle)
    with pytest.raises(ExportError, match="operator xyz is not supported"):
        export(bundle, ["torchscript", "onnx"])
    assert _hashes(bundle) == before


def test_validation_images_that_are_gone_or_changed_are_named(
    bundle: Path, colours: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(colours, moved)
    export(bundle, ["onnx"], data=moved)
    victim = moved / "val" / "red" / "101.jpg"
    victim.write_bytes(victim.read_bytes() + b"\0")
    with pytest.raises(DataError, match=r"101\.jpg is not the one"):
        export(bundle, ["onnx"], data=moved)
    victim.unlink()
    with pytest.raises(DataError, match=r"101\.jpg is not there"):
        export(bundle, ["onnx"], data=moved)
    result = export(bundle, ["onnx"], data=moved, without_validation=True)
    report = json.loads(result.verified("parity").read_text())
    decisions = [x for x in report["results"][0]["levels"] if x["name"] == "decisions"]
    assert decisions[0]["passed"] is None
