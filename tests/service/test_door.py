"""Requests that there is no room for: turned away at the door as the application would do it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from service.guard import keys
from tests.service.crowd import FEW, IMAGE, PREDICT, counted, full
from tests.service.raw import answer, connected, head, rest, statuses
from tests.service.server import Server, running
from tlserve.bundle import Bundle


@pytest.fixture(scope="module")
def server(bundle: Bundle) -> Iterator[Server]:
    with running(bundle.path, *FEW) as server:
        yield server
    assert server.log == []


def ask(server: Server, request: bytes) -> tuple[list[str], dict[str, Any]]:
    with connected(server) as connection:
        connection.sendall(request)
        top, _, body = answer(connection).partition(b"\r\n\r\n")
    lines = sorted(top.decode().lower().split("\r\n"))
    return [line for line in lines if not line.startswith("date: ")], json.loads(body)


def test_the_answer_is_what_the_application_answers(bundle: Bundle, server: Server) -> None:
    paths = [
        "/predict",
        "/predict?top_k=3",
        "/predict/batch",
        "/classify",
        f"/v2/models/{bundle.manifest.name}/infer",
        f"/v2/models/{bundle.manifest.name}/versions/{bundle.manifest.version}/infer",
    ]
    requests = [
        head("POST", path, Content_Length=1, X_Request_ID=f"{number}-id") + b"x"
        for number, path in enumerate(paths)
    ]
    # With a line for each request in the log there is no door: the application refuses.
    with running(bundle.path, *FEW, "--access-log") as inner, full(inner), full(server):
        for request in requests:
            given = ask(server, request)
            assert given == ask(inner, request)
            assert "http/1.1 503 service unavailable" in given[0]
    assert len([line for line in inner.log if " 503 " in line]) > len(requests)


def test_refusals_are_counted(server: Server) -> None:
    names = (
        'tlserve_rejected_total{reason="Busy"}',
        'tlserve_requests_total{face="predict",status="503"}',
        "tlserve_request_seconds_count",
    )
    with full(server):
        before = [counted(server, name) for name in names]
        ask(server, PREDICT)
        assert [counted(server, name) for name in names] == [number + 1 for number in before]


def test_what_needs_no_place_is_answered(server: Server) -> None:
    with full(server), server.client() as client:
        assert client.get("/livez").status_code == 200
        assert client.get("/model").status_code == 200
        assert client.get("/predict").status_code == 405
        assert client.post("/predict/", content=IMAGE).status_code == 404
        assert client.post("/v2/models/infer", content=IMAGE).status_code == 405


def test_ids_are_made_or_taken(server: Server) -> None:
    def id_of(request: bytes) -> str:
        lines, problem = ask(server, request)
        assert f"x-request-id: {problem['request_id']}".lower() in lines
        return str(problem["request_id"])

    with full(server):
        assert (
            id_of(head("POST", "/predict", Content_Length=1, X_Request_ID="mine") + b"x") == "mine"
        )
        bad = head("POST", "/predict", Content_Length=1, X_Request_ID="a b") + b"x"
        made = {id_of(PREDICT), id_of(PREDICT), id_of(bad)}
        assert len(made) == 3
        assert all(re.fullmatch("[0-9a-f]{32}", one) for one in made)


def test_the_connection_goes_on(server: Server) -> None:
    with connected(server) as connection:
        with full(server):
            # The refusal comes before the body does.
            connection.sendall(PREDICT[: -len(IMAGE)])
            assert statuses(answer(connection)) == [503]
            connection.sendall(IMAGE[:100])
            connection.sendall(IMAGE[100:] + PREDICT)
            assert statuses(answer(connection)) == [503]
            chunked = head("POST", "/predict", Transfer_Encoding="chunked")
            connection.sendall(chunked + b"3\r\nabc\r\n0\r\n\r\n")
            assert statuses(answer(connection)) == [503]
        for _ in range(100):
            connection.sendall(PREDICT)
            if statuses(answer(connection)) == [200]:
                break
        else:
            pytest.fail("The places were not given back.")


def test_answers_keep_the_order_of_pipelined_requests(server: Server) -> None:
    with full(server), connected(server) as connection:
        connection.sendall(head(path="/model") + PREDICT + head())
        data = b""
        while len(statuses(data)) < 3:
            data += connection.recv(65536)
        assert statuses(data) == [200, 503, 200]


@pytest.mark.parametrize("option", ["close", "1.0"])
def test_the_last_of_a_connection_ends_it(server: Server, option: str) -> None:
    request = PREDICT.replace(b"Host: here", b"Host: here\r\nConnection: close")
    if option == "1.0":
        request = PREDICT.replace(b"HTTP/1.1", b"HTTP/1.0")
    with full(server), connected(server) as connection:
        connection.sendall(request)
        data = rest(connection)
        assert statuses(data) == [503]
        assert b"connection: close" in data


def test_who_has_no_key_hears_nothing_of_the_queue(bundle: Bundle) -> None:
    key, line = keys.make("one")
    environment = {"TLSERVE_API_KEYS": line}
    keyed = head("POST", "/predict", Content_Length=len(IMAGE), X_API_Key=key) + IMAGE
    wrong = head("POST", "/predict", Content_Length=len(IMAGE), X_API_Key="other") + IMAGE
    with running(bundle.path, *FEW, environment=environment) as server, full(server, key):
        assert "http/1.1 503 service unavailable" in ask(server, keyed)[0]
        for request in (PREDICT, wrong):
            assert "http/1.1 401 unauthorized" in ask(server, request)[0]
