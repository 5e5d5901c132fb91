"""The image for OpenVINO: it has nothing else to run a model with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.container.conftest import Workshop
from tests.container.debian import BASE
from tests.container.runtime import running
from tests.processor import needs_bfloat16
from tlserve.bundle import Bundle
from tlserve.runtime import Predictor

pytestmark = [pytest.mark.container, pytest.mark.timeout(1800), needs_bfloat16]

_MOST_BYTES = 350_000_000
"""Of the image, beyond its base."""


def test_it_is_built_and_answers_photographs(
    workshop: Workshop,
    exported: Path,
    photographs: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    done = workshop.containerize(exported, tmp_path / "made", "--flavour", "openvino", "--json")
    assert done.returncode == 0, done.stderr[-6000:]
    tag = json.loads(done.stdout)["image"]["tag"]
    beyond = sum(workshop.layer_sizes(tag)) - sum(workshop.layer_sizes(BASE))
    predictor = Predictor.load(Bundle.read(exported), "openvino-bf16")
    with running(workshop.root(tag), tmp_path / "running") as container:
        with capsys.disabled():
            print(f"\nimage: {beyond / 1e6:.0f} MB beyond, ready in {container.seconds:.1f} s")  # noqa: T201
        with container.client() as client:
            assert client.get("/model").json()["backend"] == "openvino-bf16"
            for photograph in photographs[::20]:
                (expected,) = predictor.predict([photograph.read_bytes()])
                answer = client.post("/predict", content=photograph.read_bytes()).json()
                found = {p["label"]: p["probability"] for p in answer["predictions"]}
                assert found == pytest.approx({p.label: p.probability for p in expected}, abs=1e-2)
        absent = ["torch", "torchvision", "safetensors", "onnx", "onnxruntime", "pip"]
        program = f"import importlib.util as u; print([n for n in {absent} if u.find_spec(n)])"
        assert container.python(program) == "[]"
    assert beyond < _MOST_BYTES
