from __future__ import annotations

import asyncio
from dataclasses import replace

import httpx

from service.faces.app import build_app
from service.inference.engine import Engine
from tests.service import bundle as bundles
from tests.service.test_defects import Answers, serving
from tlserve.bundle import Bundle


def test_the_card_says_what_is_served(client: httpx.Client, bundle: Bundle) -> None:
    card = client.get("/model").json()
    manifest = bundle.manifest
    assert (card["name"], card["version"]) == (manifest.name, manifest.version)
    assert card["architecture"] == "resnet18"
    assert card["classes"] == list(bundles.CLASSES)
    assert card["preprocessing"]["crop"] == [64, 64]
    assert (card["backend"], card["device"], card["precision"]) == ("onnx", "cpu", "float32")
    assert card["metrics"]["val_accuracy"] == manifest.metrics.val_accuracy
    assert card["files"]["model.onnx"]["kind"] == "onnx"
    assert card["load"]["by"] in ("decode", "model", "idle")
    assert card["load"]["advice"].lower().startswith(card["load"]["by"])
    assert card["limits"] == {
        "image_bytes": 20 * 2**20,
        "image_pixels": 2**26,
        "images": 64,
        "request_bytes": 160 * 2**20,
        "queue": 256,
    }


def test_the_card_names_no_folder_of_the_machine_that_trained(bundle: Bundle) -> None:
    manifest = bundle.manifest
    dataset = manifest.provenance.dataset.model_copy(update={"path": "/home/someone/insects"})
    provenance = manifest.provenance.model_copy(
        update={"dataset": dataset, "pretrained": "/home/someone/resnet18.pth"}
    )
    moved = replace(bundle, manifest=manifest.model_copy(update={"provenance": provenance}))
    app = build_app()

    async def get(engine: Engine) -> httpx.Response:
        app.state.engine = engine
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            return await client.get("/model")

    with serving(moved, Answers(*range(7))) as engine:
        response = asyncio.run(get(engine))
    assert "someone" not in response.text
    card = response.json()
    assert card["provenance"]["dataset"]["path"] == "insects"
    assert card["provenance"]["dataset"]["fingerprint"] == dataset.fingerprint
    assert card["provenance"]["pretrained"] == "resnet18.pth"
    assert card["backend"] == "constant"
