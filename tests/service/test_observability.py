"""What a running service tells about itself."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.service import bundle as bundles
from tests.service.server import Server, command, failing, running
from tlserve.bundle import Bundle

IMAGE = bundles.image(0)
PAGE = Path(__file__).parents[2] / "docs" / "observability.md"


def families(text: str) -> dict[str, str]:
    """The metrics of an exposition that are ours, and their types."""
    return dict(re.findall(r"^# TYPE (tlserve_\w+) (\w+)$", text, re.MULTILINE))


def test_the_page_describes_every_metric_and_no_other(client: httpx.Client) -> None:
    assert client.post("/predict", content=IMAGE).status_code == 200
    assert client.post("/predict", content=b"").status_code == 400
    pickle = {"Content-Type": "application/vnd.bentoml+pickle"}
    assert client.post("/predict", content=IMAGE, headers=pickle).status_code == 415
    text = client.get("/metrics").text
    rows = re.findall(r"^\| `(tlserve_\w+)` \| (\w+) \|([^|]*)\|", PAGE.read_text(), re.MULTILINE)
    assert families(text) == {name: kind for name, kind, _ in rows}
    for name, kind, labels in rows:
        series = re.findall(rf"^{name}(?:_bucket)?(?:{{(.*)}})? \S+$", text, re.MULTILINE)
        found = {label for one in series for label in re.findall(r'(\w+)="', one)} - {"le"}
        assert found == set(re.findall(r"`(\w+)`", labels)), (name, kind)


def value(text: str, series: str) -> float:
    found = re.search(rf"^{re.escape(series)} (\S+)$", text, re.MULTILINE)
    return float(found.group(1)) if found else 0.0


def test_requests_and_predictions_are_counted(client: httpx.Client, bundle: Bundle) -> None:
    before = client.get("/metrics").text
    answer = client.post("/predict", content=IMAGE).json()["predictions"][0]
    client.post("/predict", content=b"?")
    client.get("/no/such/path")
    after = client.get("/metrics").text

    def more(series: str) -> float:
        return value(after, series) - value(before, series)

    assert more('tlserve_requests_total{face="predict",status="200"}') == 1
    assert more('tlserve_requests_total{face="predict",status="400"}') == 1
    assert more('tlserve_requests_total{face="other",status="404"}') == 1
    assert more('tlserve_requests_total{face="metrics",status="200"}') == 1
    assert more(f'tlserve_predictions_total{{class="{answer["label"]}"}}') == 1
    assert more("tlserve_confidence_sum") == pytest.approx(answer["probability"], abs=1e-6)
    for label in bundles.CLASSES:
        assert f'tlserve_predictions_total{{class="{label}"}}' in after, "from the start"
    version = bundle.manifest.version
    assert re.search(
        r'^tlserve_model_info{backend="onnx",device="cpu",name="insects",precision="float32",'
        rf'tlserve="[^"]+",version="{version}"}} 1.0$',
        after,
        re.MULTILINE,
    )


def test_an_answer_says_where_its_time_went(client: httpx.Client) -> None:
    header = client.post("/predict", content=IMAGE).headers["server-timing"]
    stages = dict(re.findall(r"(\w+);dur=(\d+\.\d\d)", header))
    assert " ".join(stages) == "queue decode preprocess batch inference delivery total"
    *parts, total = map(float, stages.values())
    assert total > 0
    assert sum(parts) <= total + 0.1
    assert "server-timing" not in client.post("/predict", content=b"?").headers


def test_a_request_keeps_its_id_and_every_answer_has_one(client: httpx.Client) -> None:
    headers = {"X-Request-ID": "order-66.a"}
    answer = client.post("/predict", content=IMAGE, headers=headers)
    assert answer.headers["x-request-id"] == "order-66.a"
    for method, path in (("POST", "/predict"), ("GET", "/nowhere"), ("GET", "/predict")):
        problem = client.request(method, path, headers=headers)
        assert problem.headers["x-request-id"] == problem.json()["request_id"] == "order-66.a"
    made = client.get("/livez", headers={"X-Request-ID": "two words"}).headers["x-request-id"]
    assert re.fullmatch("[0-9a-f]{32}", made)


def test_every_line_of_the_log_is_json(bundle: Bundle) -> None:
    with (
        running(bundle.path, "--log-format", "json", "--access-log") as server,
        server.client() as client,
    ):
        client.post("/predict?secret=1", content=IMAGE, headers={"X-Request-ID": "mine"})
        client.get("/a%0Ab" + "c" * 300)
        host, port = client.base_url.host, client.base_url.port or 0
        with socket.create_connection((host, port), timeout=10) as wrong:
            wrong.sendall(b"this is not HTTP\r\n\r\n")
            wrong.recv(1000)
        # The supervisor's own line has the same form.
        (worker,) = server.children()
        worker.kill()
        worker.wait(10)
        assert client.post("/predict", content=IMAGE).status_code == 200
        server.end()
    events: list[dict[str, Any]] = [json.loads(line) for line in server.log]
    assert all({"timestamp", "level", "logger", "message"} <= set(event) for event in events)
    assert any("starting it again" in event["message"] for event in events)
    access = [event for event in events if event["logger"] == "service.access"]
    first, second = access[1:3] if access[0]["path"] == "/readyz" else access[:2]
    assert first["request_id"] == "mine"
    assert (first["method"], first["path"], first["status"]) == ("POST", "/predict", 200)
    assert first["bytes"] > 0
    assert 0 < first["seconds"] < 60
    assert second["status"] == 404
    assert second["path"].startswith("/a%0Abccc")
    assert len(second["path"]) == 200


def test_a_log_that_cannot_be_written_fails_no_request(bundle: Bundle) -> None:
    with Path("/dev/full").open("w") as full:
        process = subprocess.Popen(
            [*command(bundle.path, "--port", "0", "--access-log")],
            stdout=subprocess.PIPE,
            stderr=full,
            text=True,
            env=dict(os.environ),
        )
    server = Server(process)
    try:
        assert process.stdout is not None
        server.ready_line = process.stdout.readline()
        with server.client() as client:
            for _ in range(3):
                assert client.post("/predict", content=IMAGE).status_code == 200
            assert value(client.get("/metrics").text, "tlserve_log_lines_lost_total") >= 3
    finally:
        process.terminate()
        assert process.wait(60) == 0
        assert process.stdout is not None
        process.stdout.close()


def test_a_log_format_that_is_not_known_is_explained(bundle: Bundle) -> None:
    failed = failing(bundle.path, "--log-format", "xml")
    assert failed.returncode == 2
    assert "Unknown log-format 'xml'" in failed.stderr
    assert "text, json" in failed.stderr
