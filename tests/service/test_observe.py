"""The parts of what the service tells about itself, each on its own."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from starlette.types import Receive, Scope, Send

from service.faces.openapi import PATHS
from service.inference.timing import Timing
from service.observe.faces import OTHER, face_of
from service.observe.log_format import JsonFormatter, TextFormatter
from service.observe.logs import LineHandler
from service.observe.metrics import MOST_CLASSES, OTHER_CLASSES, Metrics
from service.observe.middleware import Observed
from service.observe.request import Request, chosen_id, current, note_timing
from service.observe.server_timing import server_timing
from service.observe.tracing import wanted
from service.observe.verdict import Load, verdict
from service.observe.window import Window
from service.scope import CLIENT
from tlserve.errors import UsageError


@pytest.mark.parametrize(
    ("load", "by"),
    [
        (Load(60, preparing=100, preparing_threads=2, inference=20), "decode"),
        # The same work by more threads leaves time: now it is the model that is always busy.
        (Load(60, preparing=100, preparing_threads=8, inference=55), "model"),
        (Load(60, preparing=100, preparing_threads=8, inference=55, model_threads=4), "idle"),
        (Load(60, preparing=10, preparing_threads=2, inference=10), "idle"),
        # Threads that do both are busy with both.
        (Load(60, 40, 2, 35, 2, shared=False), "idle"),
        (Load(60, 40, 2, 35, 2, shared=True), "decode"),
        (Load(60, 35, 2, 40, 2, shared=True), "model"),
        (Load(1e-9, preparing=0, preparing_threads=2, inference=0), "idle"),
    ],
)
def test_the_busier_stage_is_what_limits(load: Load, by: str) -> None:
    found = verdict(load)
    assert found.by == by
    assert 0 <= found.preparing <= 1
    assert 0 <= found.inference <= 1
    assert found.advice.lower().startswith(by)


def test_the_window_forgets_what_is_older_than_a_minute() -> None:
    now = 1000.0
    window = Window(lambda: now)
    window.add(preparing=2)
    now += 30
    window.add(inference=3)
    assert window.sums() == (2, 3, 30)
    now += 35
    preparing, inference, seconds = window.sums()
    assert (preparing, inference) == (0, 3)
    assert 55 <= seconds <= 60
    now += 600
    assert window.sums()[:2] == (0, 0)


def test_server_timing_is_in_milliseconds() -> None:
    timing = Timing(0.001, 0.0025, 0.0005, 0.00001, 0.0123, 0.0002, 4)
    assert server_timing(timing, 0.02) == (
        "queue;dur=1.00, decode;dur=2.50, preprocess;dur=0.50, batch;dur=0.01, "
        "inference;dur=12.30, delivery;dur=0.20, total;dur=20.00"
    )


def test_of_several_images_the_slowest_is_shown() -> None:
    request = Request("a")
    token = current.set(request)
    try:
        for seconds in (1.0, 3.0, 2.0):
            note_timing(Timing(inference=seconds))
    finally:
        current.reset(token)
    assert request.timing == Timing(inference=3.0)
    note_timing(Timing())  # outside of a request there is nobody to keep it


@pytest.mark.parametrize("given", [b"a", b"3f-9.A_b:c/d=", b"x" * 128])
def test_a_sane_id_is_kept(given: bytes) -> None:
    assert chosen_id(given) == given.decode()


@pytest.mark.parametrize(
    "given", [None, b"", b"x" * 129, b"a b", b"a\nb", b"a;b", b'a"b', b"\xc3\xa9", b"a,b", b"a\n"]
)
def test_any_other_id_is_replaced(given: bytes | None) -> None:
    made = chosen_id(given)
    assert re.fullmatch("[0-9a-f]{32}", made)
    assert made != chosen_id(given)


def test_a_path_never_becomes_a_label() -> None:
    paths = ("/predict", "/v2/models/a/infer", "/", "/readyz", "/predictx", "/../etc", "*", "")
    assert [face_of(path) for path in paths] == [
        *("predict", "v2", "page", "probe", "other", "other", "page", "page")
    ]


def test_every_path_that_is_described_has_a_face() -> None:
    assert [path for path in PATHS if face_of(path) == OTHER] == []


def test_classes_behind_the_first_thousand_share_a_series() -> None:
    metrics = Metrics(4, CollectorRegistry())
    for index in (3, MOST_CLASSES, MOST_CLASSES + 700):
        row = np.zeros(MOST_CLASSES + 1000)
        row[index] = 0.75
        metrics.answered_image(row, 0.001)
    metrics.answered_image(np.full(7, np.nan), 0.001)
    text = metrics.exposition()[0].decode()
    assert 'tlserve_predictions_total{class="3"} 1.0' in text
    assert f'tlserve_predictions_total{{class="{OTHER_CLASSES}"}} 2.0' in text
    assert "tlserve_confidence_sum 2.25" in text
    assert "tlserve_delivery_seconds_count 4.0" in text


def test_the_gauges_ask_when_they_are_read_and_the_verdict_is_a_metric() -> None:
    metrics = Metrics(4, CollectorRegistry(), preparing_threads=1)
    depth = 3
    metrics.watch(queue_depth=lambda: depth, inside=lambda: 5)
    depth = 4
    metrics.prepared(0.1, 40.0, 20.0)
    metrics.batch_taken([0.1, 0.2])
    metrics.batch_run(0.01)
    text = metrics.exposition()[0].decode()
    assert "tlserve_queue_depth 4.0" in text
    assert "tlserve_requests_inside 5.0" in text
    assert 'tlserve_bound{by="decode"} 1.0' in text
    assert 'tlserve_bound{by="model"} 0.0' in text
    assert "tlserve_batch_wait_seconds_count 2.0" in text


def record(**fields: object) -> logging.LogRecord:
    return logging.makeLogRecord(
        {"name": "service.x", "levelno": logging.WARNING, "levelname": "WARNING", **fields}
    )


def test_a_json_line_has_the_stack_in_one_field() -> None:
    try:
        raise ValueError("line\nbreak \ud800 é")
    except ValueError as error:
        found = record(msg="%s", args=(error,), exc_info=(type(error), error, error.__traceback__))
    line = JsonFormatter().format(found)
    assert "\n" not in line
    assert line.isascii()
    event = json.loads(line)
    assert set(event) == {"timestamp", "level", "logger", "message", "stack"}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", event["timestamp"])
    assert event["stack"].startswith("Traceback")


def test_text_is_coloured_only_where_asked_for() -> None:
    assert "\033[" not in TextFormatter(colour=False).format(record(msg="hello"))
    assert "\033[33mWARNING" in TextFormatter(colour=True).format(record(msg="hello"))


@pytest.fixture
def full() -> Iterator[int]:
    descriptor = os.open("/dev/full", os.O_WRONLY)
    yield descriptor
    os.close(descriptor)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no disk that is always full")
def test_a_line_that_cannot_be_written_is_counted(full: int) -> None:
    for descriptor in (full, None):
        handler = LineHandler(descriptor)
        handler.handle(record(msg="hello"))
        assert handler.lost == 1
    # A defect of whoever logs harms nobody either.
    handler.handle(record(msg="%d", args=("x",)))
    assert handler.lost == 2


def test_traces_are_asked_for_by_the_standard_variables() -> None:
    endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}
    assert wanted(endpoint)
    assert wanted({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4318/v1/traces"})
    assert not wanted({})
    assert not wanted({**endpoint, "OTEL_SDK_DISABLED": "true"})
    assert not wanted({**endpoint, "OTEL_TRACES_EXPORTER": "none"})
    with pytest.raises(UsageError, match="not by 'otlp' over 'grpc'"):
        wanted({**endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"})


async def defective(scope: Scope, receive: Receive, send: Send) -> None:
    logging.getLogger("service.x").warning("trouble")
    raise RuntimeError


def test_a_request_without_an_answer_is_counted_and_its_log_lines_have_its_id(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.handler.setFormatter(JsonFormatter())
    metrics = Metrics(4, CollectorRegistry())
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/predict",
        "raw_path": b"/predict",
        "headers": [(b"x-request-id", b"r-7")],
        CLIENT: "lab",
    }

    async def nothing(*_: object) -> Any:
        return {}

    with caplog.at_level(logging.INFO, "service"), pytest.raises(RuntimeError):
        asyncio.run(Observed(defective, lambda: metrics)(scope, nothing, nothing))
    trouble, access = map(json.loads, caplog.text.splitlines())
    assert trouble["request_id"] == access["request_id"] == "r-7"
    assert (access["client"], access["status"]) == ("lab", 500)
    assert 'face="predict",status="500"} 1.0' in metrics.exposition()[0].decode()


_MIDDLEWARE = """
import warnings
warnings.simplefilter("ignore")
from service.main import TlserveService
found = {one.cls.__name__: one.kwargs for one in TlserveService.to_asgi().user_middleware}
print(found["OpenTelemetryMiddleware"]["excluded_urls"].url_disabled("http://127.0.0.1/predict"))
print(next(name for name in found if name not in ("OpenTelemetryMiddleware", "TimeoutMiddleware")))
"""


def test_bentos_spans_are_off_and_ours_is_the_outermost_of_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path))
    monkeypatch.setenv("BENTOML_DO_NOT_TRACK", "True")
    done = subprocess.run(
        [sys.executable, "-c", _MIDDLEWARE], check=True, capture_output=True, text=True
    )
    assert done.stdout.split() == ["True", "Observed"]
