"""The commands where torch is absent, as on a machine that serves, or no runtime is there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processor import here
from tlserve.bundle import Bundle

_ABSENT = """
import importlib.machinery
import os

_find = importlib.machinery.PathFinder.find_spec
_absent = set(os.environ["ABSENT"].split(","))


def _find_spec(name, path=None, target=None):
    return None if name.partition(".")[0] in _absent else _find(name, path, target)


importlib.machinery.PathFinder.find_spec = _find_spec
"""

TORCH = "torch,torchvision,safetensors,onnx,onnxscript"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """An environment whose Python does not find the modules that ``ABSENT`` lists."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(_ABSENT)
    return {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "ABSENT": TORCH}


def _tlserve(environment: dict[str, str], *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tlserve", *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_predict_verify_and_inspect_need_no_torch(
    environment: dict[str, str], exported: Path, colours: Path
) -> None:
    answer = _tlserve(environment, "predict", exported, colours / "val" / "red", "--json")
    assert answer.returncode == 0, answer.stderr
    assert len(answer.stdout.splitlines()) == 4
    report = _tlserve(environment, "verify", exported, "--json")
    assert report.returncode == 0, report.stderr
    results = {r["format"]: r["levels"] for r in json.loads(report.stdout)["results"]}
    bytes_level = {f: [x["passed"] for x in r if x["name"] == "bytes"] for f, r in results.items()}
    assert bytes_level == {
        **{name: [True] for name in here("onnx", "onnx-fp16", "onnx-int8", "openvino-bf16")},
        **{name: [None] for name in ("eager", "torchscript", "pt2")},
    }
    remarks = {x["name"]: x["remark"] for x in results["onnx"]}
    assert remarks["numbers"] == remarks["decisions"] == "not run: torch is not installed"
    shown = _tlserve(environment, "inspect", exported, "--json")
    assert json.loads(shown.stdout)["blocks"] is None


@pytest.mark.parametrize(
    "arguments",
    [("finetune", "data"), ("export", "model", "--onnx"), ("inspect", "resnet18")],
)
def test_what_needs_torch_says_so(environment: dict[str, str], arguments: tuple[str, ...]) -> None:
    result = _tlserve(environment, *arguments)
    assert result.returncode == 1
    assert "not installed: torch, torchvision" in result.stderr
    assert "tlserve[train]" in result.stderr
    assert "Traceback" not in result.stderr


def test_auto_without_openvino_says_how_to_have_it_and_leaves_its_file(
    environment: dict[str, str], exported: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "colours"
    shutil.copytree(exported, copy)
    before = Bundle.read(copy).manifest.files
    quickly = ("--seconds", 0.02, "--max-accuracy-drop", 20)
    done = _tlserve(environment | {"ABSENT": "openvino"}, "export", copy, "--auto", *quickly)
    assert done.returncode == 0, done.stderr
    (refused,) = [line for line in done.stdout.splitlines() if line.startswith("Refused: openvi")]
    assert "pip install 'tlserve[openvino]'" in refused
    (written,) = [line for line in done.stdout.splitlines() if line.startswith("Written: ")]
    assert "model.onnx" in written
    assert "bf16" not in written
    bundle = Bundle.read(copy)
    bundle.verify()
    kept = {name: entry for name, entry in before.items() if "bf16" in name}
    assert {n: e for n, e in bundle.manifest.files.items() if "bf16" in n} == kept
    asked = _tlserve(environment | {"ABSENT": "openvino"}, "export", copy, "--openvino")
    assert asked.returncode == 1
    assert "error: The backend 'openvino-bf16' needs the library 'openvino'" in asked.stderr


def test_verify_does_not_pass_where_nothing_can_run(
    environment: dict[str, str], exported: Path
) -> None:
    result = _tlserve(environment | {"ABSENT": f"{TORCH},onnxruntime,openvino"}, "verify", exported)
    assert result.returncode == 1
    assert "no backend can run" in result.stderr
