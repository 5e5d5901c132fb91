"""A bundle is verified from itself alone, and says what it could not compare."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from export.outcome import Parity
from export.run import export
from export.verify import verify
from tests.export.mutations import MUTATIONS
from tests.processor import needs_bfloat16
from tlserve.bundle import Bundle, stage
from tlserve.errors import ChecksumError, DataError, ProcessorError
from tlserve.runtime import openvino as runtime


@pytest.fixture
def copy(exported: Path, tmp_path: Path) -> Path:
    """One that may be changed."""
    shutil.copytree(exported, tmp_path / "colours")
    return tmp_path / "colours"


def levels(results: list[Parity], name: str) -> dict[str, bool | None]:
    (result,) = [r for r in results if r.format == name]
    return {level.name: level.passed for level in result.levels}


def test_a_file_that_was_replaced_with_hashes_to_match_fails(copy: Path) -> None:
    old = Bundle.read(copy)
    with stage(copy, base=old) as staged:
        entry = staged.entry("model.onnx")
        shutil.copyfile(copy / "model.int8.onnx", staged.fresh("model.onnx"))
        staged.add("model.onnx", "onnx", precision="float32", details=entry.details)
        staged.commit(staged.manifest())
    results = verify(Bundle.read(copy))
    assert [r.format for r in results if not r.passed] == ["onnx"]
    found = levels(results, "onnx")
    assert found["description"] is True
    assert found["numbers"] is False
    assert found["bytes"] is False


def test_an_altered_file_is_found_by_its_hash(copy: Path) -> None:
    with (copy / "model.pt2").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\xff")
    with pytest.raises(ChecksumError, match=r"model\.pt2"):
        verify(Bundle.read(copy))


def test_the_decisions_are_compared_where_the_images_are(copy: Path, tmp_path: Path) -> None:
    bundle = Bundle.read(copy)
    assert levels(verify(bundle), "onnx-int8")["decisions"] is True
    provenance = bundle.manifest.provenance
    gone = provenance.dataset.model_copy(update={"path": str(tmp_path / "gone")})
    with stage(copy, base=bundle) as staged:
        moved = provenance.model_copy(update={"dataset": gone})
        bundle = staged.commit(staged.manifest(provenance=moved))
    results = verify(bundle)
    assert all(r.passed for r in results)
    assert levels(results, "onnx")["decisions"] is None
    (onnx,) = [r for r in results if r.format == "onnx"]
    assert "is not there" in onnx.level("decisions").remark
    with pytest.raises(DataError, match="is not there"):
        verify(bundle, data=tmp_path / "nowhere")


def test_a_budget_that_was_allowed_is_allowed_again(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "colours")
    bundle = export(tmp_path / "colours", ["onnx-fp16"])
    entry = bundle.manifest.files["model.fp16.onnx"]
    assert entry.parity is not None
    assert entry.parity.max_accuracy_drop == 0.5
    (_, half) = sorted(verify(bundle), key=lambda r: r.format)
    assert "0.5 allowed" in half.level("decisions").remark


@needs_bfloat16
def test_what_this_processor_cannot_run_is_not_judged(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def old(*_: object) -> None:
        raise ProcessorError("This processor has no bfloat16.")

    monkeypatch.setattr(runtime, "check_bfloat16", old)
    results = verify(Bundle.read(exported))
    assert all(r.passed for r in results)
    (lacking,) = [r for r in results if r.format == "openvino-bf16"]
    assert lacking.level("bytes").passed is None
    assert lacking.level("bytes").remark == "not run: This processor has no bfloat16."


def test_every_level_finds_something() -> None:
    """So that none could be left out unseen; for the decisions, see test_parity.py."""
    found = {level for mutation in MUTATIONS for level in mutation.levels}
    assert found == {"description", "numbers", "batches", "bytes"}
