"""The promise, on real photographs and real weights: what was validated is what is answered."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.processor import BFLOAT16, here
from tests.service.server import running
from tlserve.bundle import Bundle
from tlserve.data.split import read_part
from tlserve.runtime import Predictor

pytestmark = [pytest.mark.slow, pytest.mark.shared, pytest.mark.timeout(1800)]

SEEDS = (0, 1, 2)
ACCURACY = 0.94
TOLERANCE = 1e-5


def _run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tlserve", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )


def _tlserve(*arguments: object) -> str:
    result = _run(*arguments)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def finetuned(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Bundle]:
    """Gives the bundle of a seed, by the command that the documentation gives."""
    home = tmp_path_factory.mktemp("hymenoptera")

    @functools.cache
    def finetuned(seed: int) -> Bundle:
        _tlserve(
            *("finetune", shared / "data" / "hymenoptera", "--arch", "mobilenet_v2"),
            *("--weights", shared / "weights" / "mobilenet_v2_imagenet.pth"),
            *("--strategy", "feature-extraction", "--epochs", 4, "--seed", seed),
            *("--name", f"seed{seed}", "--output", home / "models", "--runs", home / "runs"),
        )
        return Bundle.read(home / "models" / f"seed{seed}")

    return finetuned


@pytest.mark.parametrize("seed", SEEDS)
def test_feature_extraction_reaches_its_accuracy(
    finetuned: Callable[[int], Bundle], seed: int
) -> None:
    manifest = finetuned(seed).manifest
    assert manifest.metrics.val_images == 153
    assert manifest.metrics.val_accuracy >= ACCURACY
    assert manifest.provenance.dataset.skipped == ("train/ants/imageNotFound.gif",)


@pytest.fixture(scope="module")
def exported_path(finetuned: Callable[[int], Bundle]) -> Path:
    """The first of them, with all exported files but INT8."""
    path = finetuned(SEEDS[0]).path
    precisions = ("--precision", "float32", "--precision", "fp16")
    _tlserve("export", path, "--onnx", *precisions, "--torchscript", "--pt2")
    return path


def test_every_way_to_ask_gives_the_same_answer(exported_path: Path, shared: Path) -> None:
    path = exported_path
    root = shared / "data" / "hymenoptera"
    bundle = Bundle.read(path)
    samples, _ = read_part(bundle.verified("split"), "val")
    files = [root / s.path for s in samples]
    classes = bundle.manifest.classes

    answers: dict[str, list[dict[str, float]]] = {}
    for backend in ("eager", "torchscript", "pt2", "onnx"):
        predictor = Predictor.load(bundle, backend)
        answers[backend] = [
            {p.label: p.probability for p in predictor.predict([f.read_bytes()])[0]} for f in files
        ]
    lines = _tlserve("predict", path, "--json", *files).splitlines()
    answers["tlserve predict"] = [
        {p["label"]: p["probability"] for p in json.loads(line)["predictions"]} for line in lines
    ]
    with running(path) as server, server.client() as client:
        answers["HTTP"] = [
            {p["label"]: p["probability"] for p in response.json()["predictions"]}
            for response in (
                client.post("/predict", files={"image": (f.name, f.read_bytes())}) for f in files
            )
        ]

    tables = {
        way: np.array([[row[c] for c in classes] for row in rows]) for way, rows in answers.items()
    }
    reference = tables["eager"]
    assert reference.shape == (153, 2)
    assert (reference.argmax(1) == [s.label for s in samples]).mean() >= ACCURACY
    for way, table in tables.items():
        assert (table.argmax(1) == reference.argmax(1)).all(), way
        assert np.abs(table - reference).max() <= TOLERANCE, way


def test_float32_files_decide_alike_and_narrower_ones_hold_their_budget(
    exported_path: Path,
) -> None:
    path = exported_path
    # It holds its budget, or it is refused and the bundle stays as it is.
    int8 = ("export", path, "--onnx", "--precision", "int8", "--max-accuracy-drop", "0.5")
    tried = _run(*int8)
    if BFLOAT16:
        _tlserve("export", path, "--openvino", "--max-accuracy-drop", "0.5")
    if tried.returncode:
        assert "model.int8.onnx fails the parity check at the level" in tried.stderr
    bundle = Bundle.read(path)
    files = {entry.kind: entry for entry in bundle.manifest.files.values() if entry.parity}
    expected = {*here("onnx", "onnx-fp16", "openvino-bf16", "torchscript", "pt2")}
    assert set(files) == expected | ({"onnx-int8"} if not tried.returncode else set())
    for kind, entry in files.items():
        assert entry.parity is not None
        assert entry.parity.decisions_compared == 153
        if entry.precision == "float32":
            assert entry.parity.decisions_changed == 0, kind
        else:
            assert entry.parity.accuracy_drop <= 0.5, kind
    # In a fresh process, and from the bundle alone.
    report = json.loads(_tlserve("verify", path, "--json"))
    assert report["passed"]
    assert {r["format"] for r in report["results"]} == {*files, "eager"}
