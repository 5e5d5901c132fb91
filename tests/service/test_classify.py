from __future__ import annotations

import http.server
import json
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.service import bundle as bundles
from tests.service.server import Server
from tests.service.test_predict import expected
from tests.service.test_problems import assert_problem
from tlserve.runtime import Predictor

CLIENT = """
import asyncio, bentoml, json, sys
from pathlib import Path

url, photo = sys.argv[1], Path(sys.argv[2])

async def ask():
    async with bentoml.AsyncHTTPClient(url) as client:
        return await client.classify(image=photo)

def error(**arguments):
    try:
        client.classify(**arguments)
    except bentoml.exceptions.BentoMLException as error:
        return str(error)

with bentoml.SyncHTTPClient(url) as client:
    answers = {
        "plain": client.classify(image=photo),
        "asynchronous": asyncio.run(ask()),
        "options": client.classify(image=photo, top_k=2),
        "positions": client.classify(photo, 3),
        "no image": error(image=Path(__file__)),
        "a URL": error(image="http://127.0.0.1:1/a.jpg"),
        "no top_k": error(image=photo, top_k=0),
    }
print(json.dumps(answers))
"""


def printed(*arguments: str | Path) -> Any:
    """Run Python elsewhere: importing BentoML warns, and these tests allow no warning."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], stdout=subprocess.PIPE, check=True, timeout=120
    )
    return json.loads(done.stdout)


def test_bentomls_clients_get_the_answer_of_the_predictor(
    server: Server, predictor: Predictor, tmp_path: Path
) -> None:
    photo, script = tmp_path / "photo.jpg", tmp_path / "client.py"
    photo.write_bytes(bundles.image(3))
    script.write_text(CLIENT)
    answers = printed(script, server.url, photo)
    wanted = expected(predictor, photo.read_bytes())
    for name, count in (("plain", 5), ("asynchronous", 5), ("options", 2), ("positions", 3)):
        found = {p["label"]: p["probability"] for p in answers[name]}
        assert found == pytest.approx(dict(list(wanted.items())[:count]), abs=1e-6)
    assert "not an image" in answers["no image"]
    # Without a file it sends no multipart form.
    assert "application/x-www-form-urlencoded" in answers["a URL"]
    assert "top_k must be one positive integer" in answers["no top_k"]


class Planted:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.write_text, (self._path, "loaded")


PATHS = ["/classify", "/predict", "/predict/batch", "/v2/models/insects/infer"]


@pytest.mark.parametrize("path", PATHS)
def test_no_pickle_is_loaded(client: httpx.Client, tmp_path: Path, path: str) -> None:
    planted = tmp_path / "planted"
    payload = pickle.dumps(Planted(planted))
    for kind in ("vnd.bentoml+pickle", "octet-stream", "json", "x-pickle"):
        headers = {"Content-Type": f"application/{kind}", "Payload-Container": "NdarrayContainer"}
        assert 400 <= client.post(path, content=payload, headers=headers).status_code < 500
        for field in ("image", "images"):
            part = {field: ("a.pkl", payload, f"application/{kind}")}
            response = client.post(path, files=part)
            assert response.status_code < 500
            assert b"predictions" not in response.content
    assert not planted.exists()
    pickle.loads(payload)  # noqa: S301 - our own: it would have shown
    assert planted.exists()


@contextmanager
def counting() -> Iterator[tuple[str, list[str]]]:
    """A web server with an image, that notes who asks for it."""
    fetched: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            fetched.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(bundles.image(0))

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{httpd.server_port}/a.jpg", fetched
        finally:
            httpd.shutdown()


@pytest.mark.parametrize("path", PATHS)
def test_no_url_is_fetched(client: httpx.Client, path: str) -> None:
    with counting() as (url, fetched):
        for field in ("image", "images"):
            assert 400 <= client.post(path, data={field: url}).status_code < 500
            assert 400 <= client.post(path, files={field: (None, url)}).status_code < 500
            response = client.post(path, files={field: ("a.jpg", url.encode())})
            assert b"predictions" not in response.content
            assert 400 <= client.post(path, json={field: url}).status_code < 500
        assert 400 <= client.post(path, content=url).status_code < 500
        tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [url]}
        assert 400 <= client.post(path, json={"inputs": [tensor]}).status_code < 500
        assert fetched == []
        assert httpx.get(url, trust_env=False).content == bundles.image(0)
        assert fetched == ["/a.jpg"]


def test_the_image_is_a_field_of_a_form(client: httpx.Client) -> None:
    response = client.post("/classify", content=bundles.image(0))
    assert_problem(response, 415, "UnsupportedType", "multipart/form-data")
    files = {"image": bundles.image(0)}
    response = client.post("/classify", files=files, data={"k": "1"})
    assert_problem(response, 422, "InvalidForm", "it has 'k', 'image'")
    response = client.post("/classify", files=files, data={"top_k": "many"})
    assert_problem(response, 422, "InvalidTopK", "'many'")


def test_bentoml_has_no_route_of_its_own_for_it(client: httpx.Client) -> None:
    (route,) = client.get("/schema.json").json()["routes"]
    assert route["name"] == "classify"
    program = "import json, service.main as m; print(json.dumps(list(m.TlserveService.apis)))"
    assert printed("-c", program) == []
