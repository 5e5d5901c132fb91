"""Exporting, choosing and measuring on the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.commands import fails, tlserve
from tests.interpreter import python, without
from tlserve.bundle import Bundle
from tlserve.runtime.processors import available_processors


@pytest.fixture(scope="module")
def chosen(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A bundle whose fastest backend was found, and what the command printed."""
    copy = tmp_path_factory.mktemp("auto") / "colours"
    shutil.copytree(trained, copy)
    result = tlserve("export", copy, "--auto", "--max-accuracy-drop", 20, "--seconds", 0.05)
    assert result.returncode == 0, result.stderr
    return copy, result.stdout


def test_auto_measures_what_passes_and_records_the_fastest(chosen: tuple[Path, str]) -> None:
    path, printed = chosen
    bundle = Bundle.read(path)
    bundle.verify()
    serving = bundle.manifest.serving
    assert serving is not None
    assert f"Chosen: {serving.reason}" in printed
    report = json.loads((path / "measurements.json").read_text())
    candidates = {c["backend"]: c for c in report["candidates"]}
    assert set(candidates) | set(report["refused"]) == {
        *("onnx", "onnx-fp16", "onnx-int8", "openvino-bf16", "torchscript", "pt2", "eager")
    }
    found = report["measurements"]
    assert {(m["backend"], m["batch"]) for m in found} == {
        (name, batch) for name in candidates for batch in (1, 4, 16)
    }
    picked = [
        m["images_per_second"]
        for m in found
        if (m["backend"], m["threads"], m["batch"])
        == (serving.backend, serving.threads, serving.max_batch)
    ]
    assert picked[0] >= 0.9 * max(m["images_per_second"] for m in found)
    assert candidates["eager"]["bytes"] == bundle.manifest.files["weights.safetensors"].bytes
    assert candidates["onnx"]["flips"] == 0


def test_what_was_chosen_is_what_predict_and_bench_run(chosen: tuple[Path, str]) -> None:
    path, _ = chosen
    serving = Bundle.read(path).manifest.serving
    assert serving is not None
    result = tlserve("bench", path, "--batch", "1,3", "--seconds", "0.05", "--json")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)["measurements"]
    assert serving.reason[:60] in tlserve("inspect", path).stdout
    assert [m["batch"] for m in found] == [1, 3]
    assert {(m["backend"], m["threads"]) for m in found} == {(serving.backend, serving.threads)}


def test_nothing_is_chosen_where_nothing_is_fast_enough(trained: Path, tmp_path: Path) -> None:
    copy = tmp_path / "colours"
    shutil.copytree(trained, copy)
    before = (copy / "bundle.json").read_bytes()
    message = fails(1, "export", copy, "--auto", "--p99-ms", "0.001", "--seconds", "0.01")
    assert "Nothing answers within --p99-ms 0.001" in message
    assert (copy / "bundle.json").read_bytes() == before
    assert not (copy / "model.onnx").exists()


def test_bench_prints_a_table_and_draws_a_plot(exported: Path, tmp_path: Path) -> None:
    plot = tmp_path / "speed.png"
    result = tlserve(
        *("bench", exported, "--backend", "onnx", "--backend", "eager", "--threads", 1),
        *("--batch", "1,2", "--seconds", "0.05", "--plot", plot),
    )
    assert result.returncode == 0, result.stderr
    beside = str(available_processors())
    rows = [line.split("│")[1:6] for line in result.stdout.splitlines() if "│ cpu" in line]
    assert [[cell.strip() for cell in row] for row in rows] == [
        ["onnx", "cpu", "1", beside, "1"],
        ["onnx", "cpu", "1", beside, "2"],
        ["eager", "cpu", "1", beside, "1"],
        ["eager", "cpu", "1", beside, "2"],
    ]
    pixels = np.asarray(Image.open(plot).convert("L"))
    assert min(pixels.shape) >= 500
    assert len(np.unique(pixels)) > 20


def test_bench_says_which_library_a_plot_needs(exported: Path) -> None:
    program = (
        without("matplotlib")
        + """
from tlserve.errors import MissingDependencyError
from tlserve.report import plotting
plotting.find_spec = lambda name: None
try:
    plotting.require_matplotlib()
except MissingDependencyError as error:
    print(error)
"""
    )
    message = python(program)
    assert "need the library 'matplotlib'" in message
    assert "tlserve[plots]" in message
