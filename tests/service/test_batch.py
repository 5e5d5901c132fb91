from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from service.faces.limits import Limits
from service.settings import Settings
from tests.service import bundle as bundles
from tests.service.server import Server, running
from tests.service.test_predict import batches, expected
from tests.service.test_problems import assert_problem
from tlserve.bundle import Bundle
from tlserve.runtime import Predictor

GOOD = bundles.image(0)
MEBIBYTE = 1 << 20


def form(*files: tuple[str | None, bytes], field: str = "images") -> dict[str, Any]:
    return {"files": [(field, file) for file in files]}


@pytest.fixture(scope="module")
def small(bundle: Bundle) -> Iterator[Server]:
    """A server that takes little: 3 images of 100 kB, and so 300 kB in a request."""
    with running(bundle.path, "--max-images", "3", "--max-bytes", "100000") as server:
        yield server


def test_every_image_gets_its_own_answer_in_order_and_they_share_batches(
    client: httpx.Client, predictor: Predictor, bundle: Bundle
) -> None:
    images = [bundles.image(seed) for seed in range(24)]
    before = batches(client)
    response = client.post(
        "/predict/batch?top_k=2", **form(*((f"{i}.jpg", image) for i, image in enumerate(images)))
    )
    after = batches(client)
    assert response.status_code == 200, response.text
    answer = response.json()
    assert answer["model"] == {"name": "insects", "version": bundle.manifest.version}
    assert [result["file"] for result in answer["results"]] == [f"{i}.jpg" for i in range(24)]
    for image, result in zip(images, answer["results"], strict=True):
        found = {p["label"]: p["probability"] for p in result["predictions"]}
        assert found == pytest.approx(expected(predictor, image, 2), abs=1e-6)
    assert after[1] - before[1] == 24
    assert after[0] - before[0] < 24


def test_a_bad_image_fails_alone(client: httpx.Client) -> None:
    files = [("a.jpg", GOOD), ("é.txt", b"not an image"), ("c.jpg", b""), ("d.jpg", GOOD)]
    results = client.post("/predict/batch", **form(*files)).json()["results"]
    assert [result["file"] for result in results] == ["a.jpg", "é.txt", "c.jpg", "d.jpg"]
    assert [set(result) - {"file"} for result in results] == [
        {"predictions"},
        {"error"},
        {"error"},
        {"predictions"},
    ]
    labels = [[p["label"] for p in results[i]["predictions"]] for i in (0, 3)]
    assert labels[0] == labels[1]
    kinds = [results[i]["error"]["type"].rpartition("/")[2] for i in (1, 2)]
    assert kinds == ["UndecodableImage", "EmptyBody"]
    assert results[1]["error"]["status"] == 400
    assert 'reason="UndecodableImage"' in client.get("/metrics").text


@pytest.mark.parametrize(
    ("request_", "status", "kind", "detail"),
    [
        (form(("a.jpg", GOOD), field="image"), 422, "InvalidForm", "it has 'image'"),
        (form((None, b"http://127.0.0.1:1/a.jpg")), 422, "InvalidForm", "not as a file"),
        (
            {
                "content": b"--x--\r\n",
                "headers": {"Content-Type": "multipart/form-data; boundary=x"},
            },
            422,
            "InvalidForm",
            "no field at all",
        ),
        (
            {
                "content": b'--x\r\nContent-Disposition: form-data; name="images"; filename="a"'
                b"\r\n\r\nabc",
                "headers": {"Content-Type": "multipart/form-data; boundary=x"},
            },
            400,
            "MalformedForm",
            "closing boundary",
        ),
        ({"content": GOOD, "headers": {"Content-Type": "image/jpeg"}}, 415, "UnsupportedType", ""),
        ({"json": {"images": []}}, 415, "UnsupportedType", "application/json"),
        (form(("a.jpg", GOOD)) | {"params": {"top_k": "0"}}, 422, "InvalidTopK", "positive"),
        (form(*[("a.jpg", GOOD)] * 65), 413, "TooManyImages", "64 images"),
    ],
)
def test_a_bad_request_gets_its_problem(
    client: httpx.Client, request_: dict[str, Any], status: int, kind: str, detail: str
) -> None:
    assert_problem(client.post("/predict/batch", **request_), status, kind, detail)


def answer_to_endless(server: Server, start: bytes, chunk: bytes) -> bytes:
    """Send a body that does not end until an answer comes."""
    address = server.url.removeprefix("http://").split(":")
    head = (
        b"POST /predict/batch HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n"
        b"Content-Type: multipart/form-data; boundary=x\r\n\r\n"
    )
    with socket.create_connection((address[0], int(address[1])), timeout=30) as connection:
        connection.sendall(head + b"%x\r\n%s\r\n" % (len(start), start))
        for _ in range(1000):
            connection.sendall(b"%x\r\n%s\r\n" % (len(chunk), chunk))
            if select.select([connection], [], [], 0.01)[0]:
                answer = connection.recv(65536)
                while not answer.endswith(b"}"):
                    answer += connection.recv(65536)
                return answer
    raise AssertionError("the server reads on")


def test_limits_hold_while_the_body_arrives(small: Server) -> None:
    part = b'\r\n--x\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n\r\n'
    answer = answer_to_endless(small, part[2:], bytes(10_000))
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"300,000 bytes together" in answer
    answer = answer_to_endless(small, part[2:], part * 50)
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"3 images" in answer
    with small.client() as client:
        response = client.post("/predict/batch", **form(("a", bytes(MEBIBYTE))))
        assert_problem(response, 413, "TooManyBytes", "Content-Length says 1,048,")
        results = client.post(
            "/predict/batch", **form(("large", bytes(100_001)), ("good", GOOD))
        ).json()["results"]
        assert results[0]["error"]["status"] == 413
        assert "100,001" in results[0]["error"]["detail"]
        assert results[1]["predictions"]


def test_a_request_holds_a_place_for_each_image(bundle: Bundle) -> None:
    with (
        running(bundle.path, "--max-batch", "1", "--max-queue", "4") as server,
        server.client() as client,
    ):
        # The queue has room for them, or none of its size could ever be answered.
        assert client.get("/model").json()["limits"]["images"] == 4
        files = form(*[("a.jpg", GOOD)] * 4)
        assert client.post("/predict/batch", **files).status_code == 200

        async def together() -> list[int]:
            async with httpx.AsyncClient(base_url=server.url, trust_env=False) as many:
                asked = (many.post("/predict/batch", **files) for _ in range(8))
                return [response.status_code for response in await asyncio.gather(*asked)]

        assert set(asyncio.run(together())) == {200, 503}
        assert client.post("/predict/batch", **files).status_code == 200


def test_places_stand_for_bytes(bundle: Bundle) -> None:
    limits = Limits.of(Settings(bundle=bundle.path, max_bytes=100))
    assert limits == Limits(images=64, image_bytes=100, total_bytes=800)
    assert [limits.places(declared) for declared in (0, 1, 100, 101, 10**9, None)] == [
        *(1, 1, 1, 2, 8, 8)
    ]
    assert Limits.of(Settings(bundle=bundle.path, max_bytes=100, max_queue=2)).total_bytes == 200
