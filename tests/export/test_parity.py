"""Parity passes for a true export and fails for every spoiled one, the bundle unchanged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from export.demands import Demands
from export.formats import FORMATS, FormatName
from export.outcome import Parity
from export.parity import compare_decisions, compare_threads
from export.progress import Progress
from export.run import export
from export.validation import ValidationLogits
from tests.export.mutations import BUNDLE_MUTATIONS, MUTATIONS, Mutation, scaled
from tests.processor import here, needs_bfloat16
from tlserve.bundle import Bundle, stage
from tlserve.bundle.files import sha256_of
from tlserve.errors import DataError, ExportError, ParityError, ProcessorError
from tlserve.runtime.backend import Backend, load_backend
from tlserve.runtime.processors import available_processors

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
            "batches": True,
            "threads": None,
            "bytes": True,
            "decisions": True,
        }
        entry = bundle.manifest.files[result["file"]]
        assert entry.parity is not None
        assert entry.parity.decisions_compared == 12
        assert 0 < entry.parity.max_abs_diff <= entry.parity.tolerance


class Moved:
    """A backend that another number of threads takes to other logits."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def logits(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        return self._backend.logits(batch) + np.float32(0.5)


def test_whether_logits_depend_on_the_number_of_threads_is_reported(exported: Path) -> None:
    bundle = Bundle.read(exported)
    candidate = load_backend(bundle, "onnx")
    asked = []

    def same(threads: int) -> Backend:
        asked.append(threads)
        return load_backend(bundle, "onnx", threads=threads)

    level = compare_threads(bundle, candidate, same)
    assert (level.passed, level.max_abs_diff) == (None, 0)
    assert level.remark.startswith("bit for bit the same")
    # The candidate has the processors' number already.
    assert len(asked) == 1
    assert asked[0] != available_processors()

    level = compare_threads(bundle, candidate, lambda threads: Moved(same(threads)))
    assert level.passed is None
    assert level.max_abs_diff == pytest.approx(0.5, abs=1e-4)
    assert level.remark.startswith("not the same")


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


_CASES = [
    pytest.param(
        mutation,
        name,
        id=f"{name}: {mutation.what}",
        marks=[needs_bfloat16] if name == "openvino-bf16" else [],
    )
    for mutation in MUTATIONS
    for name in mutation.formats
]


@pytest.mark.parametrize(("mutation", "name"), _CASES)
def test_a_spoiled_export_is_caught(
    bundle: Path, mutation: Mutation, name: FormatName, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = _expect_failure(bundle, name, mutation.write(name), monkeypatch)
    assert found == mutation.levels


@pytest.mark.parametrize("change", BUNDLE_MUTATIONS)
def test_a_change_of_the_bundle_is_caught_by_the_golden_images(bundle: Path, change: str) -> None:
    """Even where the manifest was made consistent again, the recorded answers no longer hold."""
    old = Bundle.read(bundle)
    fields = {
        name: getattr(old.manifest, name).model_copy(update=value)
        if isinstance(value, dict)
        else value
        for name, value in BUNDLE_MUTATIONS[change].items()
    }
    with stage(bundle, base=old) as staged:
        staged.commit(staged.manifest(**fields))
    recorder = Recorder()
    with pytest.raises(ParityError, match="level bytes"):
        export(bundle, ["onnx"], progress=recorder)
    assert recorder.failed_levels() == {"bytes"}


LABELS = np.array([0, 1, 2, 0])
MODEL = ValidationLogits(
    np.array([[5, 0, 0], [0, 5, 0], [0, 0, 5], [0.5, 0.4999, 0]], np.float32),
    LABELS,
    ("a.jpg", "b.jpg", "c.jpg", "d.jpg"),
)


def _moved(image: int, row: list[float]) -> NDArray[np.float32]:
    found = MODEL.logits.copy()
    found[image] = row
    return found


def test_float32_may_change_a_decision_only_where_the_margin_is_within_the_tolerance() -> None:
    # The range is 5, the tolerance 5e-4.
    close = compare_decisions(MODEL, _moved(3, [0.4999, 0.5001, 0]))
    assert close.passed
    assert [flip.partition(" ")[0] for flip in close.flips] == ["d.jpg"]
    assert close.accuracy_drop == 25
    assert not compare_decisions(MODEL, _moved(0, [0, 5, 0])).passed
    assert not compare_decisions(MODEL, _moved(0, [5.001, 0, 0])).passed, (
        "the same, but other logits"
    )


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_narrower_precisions_have_a_budget(precision: Any) -> None:
    found = _moved(3, [0, 0.1, 0])
    assert compare_decisions(MODEL, found, precision, 25.0).passed
    level = compare_decisions(MODEL, found, precision, 24.9)
    assert level.passed is False
    assert level.remark.endswith("1 decisions changed, +25.00 points lost, 24.9 allowed")
    assert level.flips == ("d.jpg (margin 0.0001)",)
    assert compare_decisions(MODEL, _moved(3, [np.nan, 0, 0]), precision, 100.0).passed is False


def test_a_flip_that_is_right_does_not_cost() -> None:
    wrong = ValidationLogits(MODEL.logits, np.array([0, 1, 2, 1]), MODEL.paths)
    level = compare_decisions(wrong, _moved(3, [0, 0.1, 0]), "int8", 0.0)
    assert level.passed
    assert level.accuracy_drop == -25


def test_the_documentation_lists_what_is_caught_by_which_level(repository: Path) -> None:
    """The table in docs/exports.md is this file's; --pdb shows what it should be."""
    rows = [(m.what, m.levels) for m in MUTATIONS]
    rows += [(what, frozenset({"bytes"})) for what in BUNDLE_MUTATIONS]
    lines = [f"| {what} | {', '.join(sorted(levels))} |" for what, levels in rows]
    text = (repository / "docs" / "exports.md").read_text("utf-8")
    start, end = "<!-- mutations: begin -->\n", "<!-- mutations: end -->"
    found = text[text.index(start) + len(start) : text.index(end)].splitlines()
    assert found[2:] == lines
    assert len(lines) >= 20


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


def test_what_overflows_in_float16_is_not_written(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A CPU computes in float32 all the same, and would give the right answers."""
    write = scaled(*[2.0**12] * 3)("onnx-fp16")
    monkeypatch.setitem(FORMATS, "onnx-fp16", replace(FORMATS["onnx-fp16"], write=write))
    before = _hashes(bundle)
    with pytest.raises(ExportError, match=r"float16 ends at 65504, and .* reaches \d"):
        export(bundle, ["onnx-fp16"])
    assert _hashes(bundle) == before


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


def test_auto_leaves_out_what_cannot_be_written_and_what_is_wrong(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files of an earlier export go, too: the bundle would say that they are proven."""
    copy = tmp_path / "colours"
    shutil.copytree(exported, copy)

    def throwing(*_: object) -> dict[str, str]:
        raise RuntimeError("operator xyz is not supported")

    def lacking() -> None:
        raise ProcessorError("This processor has no bfloat16.", hint="Take another.")

    (wrong,) = [m for m in MUTATIONS if m.what == "the head without its bias"]
    spoiled: dict[FormatName, Any] = {
        "pt2": throwing,
        "torchscript": wrong.write("torchscript"),
    }
    for name, write in spoiled.items():
        monkeypatch.setitem(FORMATS, name, replace(FORMATS[name], write=write))
    openvino = replace(FORMATS["openvino-bf16"], check=lacking)
    monkeypatch.setitem(FORMATS, "openvino-bf16", openvino)
    formats: list[FormatName] = ["onnx", *spoiled, "openvino-bf16"]
    result = export(copy, formats, Demands(choose=True, seconds=0.01))
    result.verify()
    assert {entry.kind for entry in result.manifest.files.values() if entry.parity} == {
        *here("onnx", "onnx-fp16", "onnx-int8", "openvino-bf16")
    }
    refused = json.loads(result.verified("measurements").read_text())["refused"]
    assert set(refused) == {"pt2", "torchscript", "openvino-bf16"}
    assert "operator xyz" in refused["pt2"]
    # What was proven before stays.
    assert refused["openvino-bf16"] == "This processor has no bfloat16. Take another."
    assert not (copy / "model.pt2").exists()


def test_validation_images_that_are_gone_or_changed_are_named(
    bundle: Path, colours: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(colours, moved)
    export(bundle, ["onnx"], Demands(data=moved))
    victim = moved / "val" / "red" / "101.jpg"
    victim.write_bytes(victim.read_bytes() + b"\0")
    with pytest.raises(DataError, match=r"101\.jpg is not the one"):
        export(bundle, ["onnx"], Demands(data=moved))
    victim.unlink()
    with pytest.raises(DataError, match=r"101\.jpg is not there"):
        export(bundle, ["onnx"], Demands(data=moved))
    result = export(bundle, ["onnx"], Demands(data=moved, without_validation=True))
    report = json.loads(result.verified("parity").read_text())
    decisions = [x for x in report["results"][0]["levels"] if x["name"] == "decisions"]
    assert decisions[0]["passed"] is None
