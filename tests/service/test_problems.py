from __future__ import annotations

import concurrent.futures
import zlib
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.images import png
from tests.service import bundle as bundles
from tests.service.server import Server, running
from tlserve.bundle import Bundle

JPEG = bundles.image(0)
MEBIBYTE = 1 << 20


def chunks(count: int) -> Iterator[bytes]:
    for _ in range(count):
        yield bytes(MEBIBYTE)


def image_type(content: Any) -> dict[str, Any]:
    return {"content": content, "headers": {"Content-Type": "image/jpeg"}}


def part(name: str, body: bytes) -> tuple[str, tuple[str, bytes]]:
    return name, ("photo.jpg", body)


BROKEN_FORM = {
    "content": b"--x\r\nContent-Disposition: form-data\r\n\r\nabc\r\n--x--\r\n",
    "headers": {"Content-Type": "multipart/form-data; boundary=x"},
}

CASES: dict[str, tuple[dict[str, Any], int, str, str]] = {
    # name: (request, status, kind, what the detail says)
    "empty body": (image_type(b""), 400, "EmptyBody", "0 bytes"),
    "empty file": ({"files": [part("image", b"")]}, 400, "EmptyBody", "0 bytes"),
    "no image": (image_type(b"not an image"), 400, "UndecodableImage", "b'not an i'"),
    "cut off": (image_type(JPEG[: len(JPEG) // 2]), 400, "UndecodableImage", "cannot be decoded"),
    "no image in a form": ({"files": [part("image", b"?")]}, 400, "UndecodableImage", "b'?'"),
    "30 MB": (image_type(bytes(30_000_000)), 413, "TooManyBytes", "30,000,000"),
    "30 MB in chunks": ({"content": lambda: chunks(30)}, 413, "TooManyBytes", "20,971,520"),
    "30 MB in a form": (
        {"files": [part("image", bytes(30_000_000))]},
        413,
        "TooManyBytes",
        "20,971,520",
    ),
    "one byte too many in a form": (
        {"files": [part("image", bytes(20 * MEBIBYTE + 1))]},
        413,
        "TooManyBytes",
        "20,971,521",
    ),
    "too many pixels": (
        image_type(png(10_000, 10_000, depth=8, colour=2, rows=b"few")),
        413,
        "TooManyPixels",
        "10000 x 10000",
    ),
    "far too many pixels": (
        image_type(png(60_000, 60_000, depth=8, colour=2, rows=b"few")),
        413,
        "TooManyPixels",
        "67,108,864",
    ),
    "JSON": ({"json": {"image": "a.jpg"}}, 415, "UnsupportedType", "application/json"),
    "curl's default type": (
        {"content": JPEG, "headers": {"Content-Type": "application/x-www-form-urlencoded"}},
        415,
        "UnsupportedType",
        "x-www-form-urlencoded",
    ),
    "compressed": (
        {"content": zlib.compress(JPEG), "headers": {"Content-Encoding": "deflate"}},
        415,
        "UnsupportedType",
        "deflate",
    ),
    "wrong field": ({"files": [part("file", JPEG)]}, 422, "InvalidForm", "it has 'file'"),
    "no field": (
        {
            "content": b"--x--\r\n",
            "headers": {"Content-Type": "multipart/form-data; boundary=x"},
        },
        422,
        "InvalidForm",
        "no field at all",
    ),
    "a second field": (
        {"files": [part("image", JPEG)], "data": {"top_k": "3"}},
        422,
        "InvalidForm",
        "'top_k'",
    ),
    "two images": (
        {"files": [part("image", JPEG), part("image", JPEG)]},
        422,
        "InvalidForm",
        "'image', 'image'",
    ),
    "a URL for an image": (
        {"files": [("image", (None, b"http://127.0.0.1:1/cat.jpg"))]},
        422,
        "InvalidForm",
        "string",
    ),
    "broken form": (BROKEN_FORM, 400, "MalformedForm", "cannot be parsed"),
    "form without boundary": (
        {"content": b"abc", "headers": {"Content-Type": "multipart/form-data"}},
        400,
        "MalformedForm",
        "boundary",
    ),
} | {
    f"top_k {value!r}": (
        image_type(JPEG) | {"params": {"top_k": value}},
        422,
        "InvalidTopK",
        "positive integer",
    )
    for value in ("0", "-1", "1.5", "three", "", " 2", "٣", ["1", "2"])
}


def assert_problem(response: httpx.Response, status: int, kind: str, detail: str) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = response.json()
    assert problem["status"] == status
    assert problem["type"].endswith(f"/{kind}")
    assert detail in problem["detail"]
    assert problem["title"]
    return problem


def send(client: httpx.Client, request: dict[str, Any]) -> httpx.Response:
    if callable(request.get("content")):
        request = request | {"content": request["content"]()}
    return client.post("/predict", **request)


@pytest.mark.parametrize("case", CASES)
def test_bad_input_gets_its_problem(client: httpx.Client, case: str) -> None:
    request, status, kind, detail = CASES[case]
    assert_problem(send(client, request), status, kind, detail)


def test_requests_beside_bad_ones_are_unharmed(client: httpx.Client) -> None:
    good = client.post("/predict", content=JPEG).json()

    def ask(name: str | None) -> bool:
        if name is None:
            answer = client.post("/predict", content=JPEG).json()
            same = [p["label"] for p in answer["predictions"]]
            return same == [p["label"] for p in good["predictions"]]
        return send(client, CASES[name][0]).status_code == CASES[name][1]

    # The large ones are left to the test above: they would only make this one slow.
    small = [name for name in CASES if CASES[name][2] != "TooManyBytes"]
    mixed = [name for bad in small for name in (bad, None)]
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        assert all(pool.map(ask, mixed * 3))


def test_other_paths_and_methods_get_problems_too(client: httpx.Client) -> None:
    problem = assert_problem(client.get("/nowhere"), 404, "NotFound", "/nowhere")
    assert "/predict" in problem["hint"]
    assert_problem(client.post("/predict/", content=JPEG), 404, "NotFound", "/predict/")
    for method, path in (("GET", "/predict"), ("DELETE", "/predict"), ("POST", "/openapi.json")):
        response = client.request(method, path)
        assert_problem(response, 405, "MethodNotAllowed", method)
        assert response.headers["allow"] == ("POST" if path == "/predict" else "GET")


def test_a_full_queue_says_when_to_come_back(bundle: Bundle) -> None:
    with (
        running(bundle.path, "--max-batch", "1", "--max-queue", "1") as server,
        server.client() as client,
        concurrent.futures.ThreadPoolExecutor(16) as pool,
    ):
        responses = list(pool.map(lambda _: client.post("/predict", content=JPEG), range(96)))
        assert {response.status_code for response in responses} == {200, 503}
        refused = next(r for r in responses if r.status_code == 503)
        assert_problem(refused, 503, "Busy", "wait already")
        assert refused.headers["retry-after"] == "1"
        assert client.post("/predict", content=JPEG).status_code == 200


def test_a_client_that_leaves_in_the_middle_harms_nobody(server: Server) -> None:
    def halves() -> Iterator[bytes]:
        yield JPEG[:500]
        raise ConnectionAbortedError

    with server.client() as client, pytest.raises(ConnectionAbortedError):
        client.post("/predict", content=halves())
    with server.client() as client:
        assert client.post("/predict", content=JPEG).status_code == 200
        # 499: nobody was there to have an answer.
        metrics = client.get("/metrics").text
        assert 'tlserve_requests_total{face="predict",status="499"} 1.0' in metrics
