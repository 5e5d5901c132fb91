"""A service that runs OpenVINO's file, and has nothing else to run one with."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from export import openvino
from tests.interpreter import without
from tests.processor import needs_bfloat16
from tests.service import bundle as bundles
from tests.service.server import running
from tlserve.bundle import Bundle, stage
from tlserve.runtime import Predictor

pytestmark = needs_bfloat16


@pytest.fixture(scope="module")
def converted(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    target = tmp_path_factory.mktemp("converted") / "insects"
    bundles.write_copy(bundle, target)
    copy = Bundle.read(target)
    with stage(target, base=copy) as staged:
        openvino.write(target / "model.onnx", staged.fresh("model.bf16.xml"))
        staged.add("model.bf16.xml", "openvino-bf16", precision="bfloat16")
        staged.add("model.bf16.bin", "openvino-bf16-data", precision="bfloat16")
        return staged.commit(staged.manifest())


def test_answers_of_many_clients_are_those_of_the_file(converted: Bundle, tmp_path: Path) -> None:
    absent = without("torch", "torchvision", "safetensors", "onnx", "onnxruntime")
    (tmp_path / "sitecustomize.py").write_text(absent)
    paths = [str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {"PYTHONPATH": os.pathsep.join(paths)}
    images = [bundles.image(seed) for seed in range(16)]
    predictor = Predictor.load(converted, "openvino-bf16")
    expected = [predictor.predict([image])[0] for image in images]
    assert len({answer[0].probability for answer in expected}) == len(images)
    arguments = ("--backend", "openvino-bf16", "--threads", "1", "--max-batch", "4")
    with (
        running(converted.path, *arguments, environment=environment) as server,
        server.client() as client,
        ThreadPoolExecutor(8) as pool,
    ):
        assert "(openvino-bf16 on cpu)" in server.ready_line
        card = client.get("/model").json()
        assert (card["backend"], card["precision"]) == ("openvino-bf16", "bfloat16")
        described = client.get("/openapi.json").json()["components"]["schemas"]["Card"]
        assert card["precision"] in described["properties"]["precision"]["enum"]

        def ask(image: bytes) -> list[tuple[str, float]]:
            answer = client.post("/predict", content=image, params={"top_k": 3}).json()
            return [(p["label"], p["probability"]) for p in answer["predictions"]]

        answers = list(pool.map(ask, images * 6))
    for number, answer in enumerate(answers):
        right = expected[number % len(images)][:3]
        assert [label for label, _ in answer] == [p.label for p in right]
        # Alone and in a batch, on one thread and on several.
        assert [p for _, p in answer] == pytest.approx([p.probability for p in right], abs=1e-2)
