"""Traces, as they reach a collector."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.service import bundle as bundles
from tests.service.server import failing, running
from tlserve.bundle import Bundle

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
STAGES = ["queue", "decode", "preprocess", "batch", "inference", "delivery"]

WITHOUT_EXPORTER = """
import importlib.machinery

_find = importlib.machinery.PathFinder.find_spec


def _find_spec(name, path=None, target=None):
    absent = name.startswith("opentelemetry.exporter")
    return None if absent else _find(name, path, target)


importlib.machinery.PathFinder.find_spec = _find_spec
"""


def test_a_request_is_a_span_of_the_clients_trace_with_its_stages(bundle: Bundle) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    from tests.service.collector import collecting, values

    with collecting() as collector:
        environment = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_SERVICE_NAME": "insects",
            "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment=test",
        }
        options = ("--log-format", "json", "--access-log")
        with (
            running(bundle.path, *options, environment=environment) as server,
            server.client() as client,
        ):
            headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "X-Request-ID": "r-1"}
            image = bundles.image(0)
            assert client.post("/predict", content=image, headers=headers).status_code == 200
            client.post("/predict", content=b"?")
            client.get("/livez")
            client.get("/nowhere/at/all")
            # What has not been sent yet is sent at the end.
            assert server.end() == 0
        spans = collector.wait_for(8, 10)
    resource = collector.resources[0]
    assert resource["service.name"] == "insects"
    assert resource["deployment.environment"] == "test"
    roots = [span for span in spans if span.kind == span.SPAN_KIND_SERVER]
    assert [span.name for span in roots] == ["POST /predict", "POST /predict", "GET"]
    found = values(roots[0].attributes)
    assert roots[0].trace_id.hex() == TRACE
    assert roots[0].parent_span_id.hex() == PARENT
    assert found["http.response.status_code"] == 200
    assert found["tlserve.request_id"] == "r-1"
    assert roots[1].trace_id.hex() != TRACE
    assert values(roots[1].attributes)["http.response.status_code"] == 400
    children = [span for span in spans if span.parent_span_id == roots[0].span_id]
    assert [span.name for span in children] == STAGES
    assert all(span.trace_id == roots[0].trace_id for span in children)
    # One after the other, the last of them over before the answer.
    moments = [m for s in children for m in (s.start_time_unix_nano, s.end_time_unix_nano)]
    assert moments == sorted(moments)
    assert moments[-1] <= roots[0].end_time_unix_nano
    assert not [span for span in spans if span.parent_span_id == roots[1].span_id]
    access = [json.loads(line) for line in server.log]
    assert any(event.get("trace_id") == TRACE for event in access)


def test_a_collector_that_is_not_there_harms_nobody(bundle: Bundle) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    environment = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
    }
    with (
        running(bundle.path, "--log-format", "json", environment=environment) as server,
        server.client() as client,
    ):
        for seed in range(3):
            assert client.post("/predict", content=bundles.image(seed)).status_code == 200
        assert server.end() == 0
    assert all(json.loads(line)["logger"] for line in server.log)


def test_traces_without_the_extra_are_an_error(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(WITHOUT_EXPORTER)
    environment = {
        "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]),
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318",
    }
    failed = failing(bundle.path, "--port", "0", environment=environment)
    assert failed.returncode == 1
    assert "tlserve[tracing]" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_another_protocol_is_an_error(bundle: Bundle) -> None:
    environment = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4317",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
    }
    failed = failing(bundle.path, "--port", "0", environment=environment)
    assert failed.returncode == 2
    assert "http/protobuf" in failed.stderr
    assert "Traceback" not in failed.stderr
