from __future__ import annotations

import asyncio
import re
from typing import Any

import httpx
import pytest

from tests.service import bundle as bundles
from tests.service.server import Server
from tlserve.bundle import Bundle
from tlserve.runtime import Predictor


def expected(predictor: Predictor, data: bytes, k: int = 5) -> dict[str, float]:
    (predictions,) = predictor.predict([data], k)
    return {p.label: p.probability for p in predictions}


def answered(response: httpx.Response) -> dict[str, float]:
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    predictions = response.json()["predictions"]
    probabilities = [p["probability"] for p in predictions]
    assert probabilities == sorted(probabilities, reverse=True)
    return {p["label"]: p["probability"] for p in predictions}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("content_type", ["image/jpeg", "application/octet-stream", None])
def test_a_raw_body_gets_the_answer_of_the_predictor(
    client: httpx.Client, predictor: Predictor, seed: int, content_type: str | None
) -> None:
    data = bundles.image(seed)
    headers = {"Content-Type": content_type} if content_type else {}
    answer = answered(client.post("/predict", content=data, headers=headers))
    assert answer == pytest.approx(expected(predictor, data), abs=1e-6)


def test_golden_images_get_the_same_answer_by_multipart_and_in_chunks(
    client: httpx.Client, predictor: Predictor, bundle: Bundle
) -> None:
    for name in bundle.names("golden-image"):
        data = (bundle.path / name).read_bytes()
        wanted = pytest.approx(expected(predictor, data), abs=1e-6)
        # A type that BentoML itself would refuse: the bytes say what they are.
        files = {"image": (name, data, "image/jpg")}
        assert answered(client.post("/predict", files=files)) == wanted
        chunks = (data[i : i + 1000] for i in range(0, len(data), 1000))
        assert answered(client.post("/predict", content=chunks)) == wanted


def test_the_answer_names_the_model(client: httpx.Client, bundle: Bundle) -> None:
    answer = client.post("/predict", content=bundles.image(0)).json()
    assert set(answer) == {"model", "predictions"}
    assert answer["model"] == {"name": "insects", "version": bundle.manifest.version}


@pytest.mark.parametrize(
    ("query", "count"), [("", 5), ("?top_k=1", 1), ("?top_k=7", 7), ("?top_k=" + "9" * 5000, 7)]
)
def test_top_k_is_clamped_to_the_classes(client: httpx.Client, query: str, count: int) -> None:
    answer = answered(client.post(f"/predict{query}", content=bundles.image(0)))
    assert len(answer) == count
    if count == len(bundles.CLASSES):
        assert sum(answer.values()) == pytest.approx(1)


async def ask_together(url: str, images: list[bytes]) -> list[httpx.Response]:
    """Send every image from a client of its own, at once."""
    limits = httpx.Limits(max_connections=len(images))
    async with httpx.AsyncClient(
        base_url=url, limits=limits, timeout=60, trust_env=False
    ) as client:
        return await asyncio.gather(*(client.post("/predict", content=i) for i in images))


def batches(client: httpx.Client) -> tuple[float, float]:
    """How many batches ran, and how many images in them."""
    response = client.get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain")
    values = [
        float(re.findall(rf"^tlserve_batch_size_{name} (.*)$", response.text, re.MULTILINE)[0])
        for name in ("count", "sum")
    ]
    return values[0], values[1]


def test_simultaneous_clients_get_their_own_answers_from_shared_batches(
    server: Server, client: httpx.Client, predictor: Predictor
) -> None:
    images = [bundles.image(seed) for seed in range(32)]
    wanted = [expected(predictor, image) for image in images]
    assert len({tuple(w.values()) for w in wanted}) == len(images), "the images must differ"
    before = batches(client)
    for _ in range(3):
        for response, answer in zip(
            asyncio.run(ask_together(server.url, images)), wanted, strict=True
        ):
            assert answered(response) == pytest.approx(answer, abs=1e-6)
    after = batches(client)
    assert after[1] - before[1] == 3 * len(images)
    assert (after[1] - before[1]) / (after[0] - before[0]) > 1


def test_metrics_name_what_was_measured(client: httpx.Client) -> None:
    client.post("/predict", content=b"")
    for path in ("/a", "/b"):
        client.get(path)
    text = client.get("/metrics").text
    for name in ("request_seconds", "batch_size", "queue_wait_seconds", "inference_seconds"):
        assert f"# TYPE tlserve_{name} histogram" in text
    assert 'tlserve_rejected_total{reason="EmptyBody"}' in text
    # A series for every path asked for would let any client fill the memory.
    assert '"/a"' not in text


def test_the_probes_answer(client: httpx.Client) -> None:
    for path in ("/livez", "/readyz"):
        assert client.get(path).status_code == 200


def test_the_page_and_what_it_loads_come_from_here(client: httpx.Client) -> None:
    page = client.get("/")
    assert page.status_code == 200
    assert "http" not in page.text.partition("<body>")[2]
    links: list[Any] = re.findall(r'(?:src|href|url)(?:=|: )"\./([^"]+)"', page.text)
    assert len(links) == 3
    for link in links:
        assert client.get(f"/{link}").status_code == 200, link
