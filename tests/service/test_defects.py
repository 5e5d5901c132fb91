"""What clients see when the service itself is at fault: the application in this process."""

from __future__ import annotations

import asyncio
import json
import logging
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from service.faces import answering
from service.faces.app import build_app
from service.inference.engine import Engine
from service.observe.metrics import Metrics
from service.settings import Settings
from tests.service import bundle as bundles
from tlserve.bundle import Bundle
from tlserve.bundle.manifest import Precision
from tlserve.runtime import Predictor


class Answers:
    """A backend that gives the same logits for every image."""

    name = "constant"
    device = "cpu"
    precision: Precision = "float32"
    description: str | None = None

    def __init__(self, *logits: float) -> None:
        self._logits = np.array(logits, dtype=np.float32)

    def logits(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.tile(self._logits, (len(batch), 1))


class Crashes(Answers):
    """A backend that cannot run."""

    def logits(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        raise RuntimeError(f"an illegal memory access, with a batch of {len(batch)}")


class Slow(Answers):
    """A backend that takes its time."""

    def logits(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        time.sleep(0.5)
        return super().logits(batch)


@contextmanager
def serving(bundle: Bundle, backend: Answers) -> Iterator[Engine]:
    settings = Settings(bundle=bundle.path)
    running = settings.running(bundle)
    metrics = Metrics(running.max_batch, CollectorRegistry())
    engine = Engine(Predictor(bundle, backend), settings, running, metrics)
    try:
        yield engine
    finally:
        engine.stop()


def ask(engine: Engine, path: str = "/predict", **request: Any) -> httpx.Response:
    app = build_app()
    app.state.engine = engine

    async def post() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            return await client.post(path, **(request or {"content": bundles.image(0)}))

    return asyncio.run(post())


@pytest.mark.parametrize("backend", [Crashes(), Answers(*[float("nan")] * 7)])
def test_a_defect_is_a_problem_document_and_is_logged(
    bundle: Bundle, backend: Answers, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR), serving(bundle, backend) as engine:
        response = ask(engine)
    assert response.status_code == 500
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["type"].endswith("/InternalError")
    assert "illegal memory" not in response.text, "what went wrong inside is for the log only"
    assert caplog.records[-1].exc_info is not None


def test_a_stopped_engine_is_not_ready(bundle: Bundle) -> None:
    with serving(bundle, Answers(*range(7))) as engine:
        assert engine.ready
        assert ask(engine).json()["predictions"][0]["label"] == bundles.CLASSES[-1]
    assert not engine.ready


def test_an_answer_that_takes_too_long_is_given_up(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answering, "_ANSWER_SECONDS", 0.05)
    files = [("images", ("a.jpg", bundles.image(0)))]
    with serving(bundle, Slow(*range(7))) as engine:
        for response in (ask(engine), ask(engine, "/predict/batch", files=files)):
            assert response.status_code == 504
            assert response.json()["type"].endswith("/Timeout")


def test_a_defect_is_told_with_each_image_of_many(
    bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    files = [("images", ("a.jpg", bundles.image(0))), ("images", ("b.jpg", b"?"))]
    with caplog.at_level(logging.ERROR), serving(bundle, Crashes()) as engine:
        response = ask(engine, "/predict/batch", files=files)
    assert response.status_code == 200
    assert [result["error"]["status"] for result in response.json()["results"]] == [500, 400]
    assert "illegal memory" not in response.text
    assert "illegal memory" in caplog.text


def test_a_probability_that_is_no_number_does_not_leave_as_bytes(
    bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    image = bundles.image(0)
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1]}
    described = tensor | {"parameters": {"binary_data_size": len(image) + 4}}
    text = json.dumps({"inputs": [described], "parameters": {"binary_data_output": True}}).encode()
    with serving(bundle, Answers(*[float("nan")] * 7)) as engine:
        response = ask(
            engine,
            "/v2/models/insects/infer",
            content=text + struct.pack("<I", len(image)) + image,
            headers={"Inference-Header-Content-Length": str(len(text))},
        )
    assert response.status_code == 500
    assert response.json()["error"] == "Image 0: The answer could not be made; the log says why."
