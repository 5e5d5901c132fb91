"""What clients see when the service itself is at fault: the application in this process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

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


def ask(engine: Engine) -> httpx.Response:
    app = build_app()
    app.state.engine = engine

    async def post() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            return await client.post("/predict", content=bundles.image(0))

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
