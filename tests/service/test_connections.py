"""Clients that are slow, silent, greedy or wrong: written by hand, on the real server."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator

import pytest

from tests.service import bundle as bundles
from tests.service.raw import (
    address_of,
    answer,
    connected,
    head,
    problem,
    rest,
    seconds_until_closed,
    statuses,
)
from tests.service.server import Server, running
from tlserve.bundle import Bundle

IMAGE = bundles.image(0)
PREDICT = head("POST", "/predict", Content_Length=len(IMAGE)) + IMAGE
LIVEZ = head()


@pytest.fixture(scope="module")
def hasty(bundle: Bundle) -> Iterator[Server]:
    """A server without patience."""
    options = ("--header-timeout", "1", "--keep-alive", "1", "--max-connections", "20")
    with running(bundle.path, *options) as server:
        yield server
    # Whatever clients do, it is none of the log's business.
    assert server.log == []


def assert_serves(server: Server) -> None:
    with server.client() as client:
        assert client.post("/predict", content=IMAGE).status_code == 200


def trickle(connection: socket.socket, data: bytes) -> None:
    """Send the same again and again until the server has had enough."""
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        for _ in range(300):
            connection.sendall(data)
            time.sleep(0.1)


def test_silent_connections_are_closed(hasty: Server) -> None:
    with connected(hasty) as connection:
        seconds, data = seconds_until_closed(connection)
    assert (data, 0.9 < seconds < 4) == (b"", True)


def test_headers_that_trickle_get_408(hasty: Server) -> None:
    with connected(hasty) as connection:
        started = time.monotonic()
        connection.settimeout(0.1)
        data = b""
        for byte in LIVEZ:
            connection.sendall(bytes([byte]))
            try:
                data = connection.recv(65536)
                break
            except TimeoutError:
                pass
        assert 0.9 < time.monotonic() - started < 4
        assert problem(data)["type"].endswith("/SlowHeaders")


def test_empty_lines_do_not_keep_a_connection(hasty: Server) -> None:
    with connected(hasty) as connection:
        connection.sendall(LIVEZ)
        assert statuses(answer(connection)) == [200]
        started = time.monotonic()
        trickle(connection, b"\r\n")
    assert time.monotonic() - started < 6


def test_idle_connections_are_closed(hasty: Server) -> None:
    with connected(hasty) as connection:
        connection.sendall(LIVEZ)
        seconds, data = seconds_until_closed(connection)
    assert statuses(data) == [200]
    assert 0.9 < seconds < 4


def test_the_rest_of_a_body_is_not_waited_for_after_the_answer(hasty: Server) -> None:
    with connected(hasty) as connection:
        connection.sendall(head("POST", "/nowhere", Content_Length=10**6) + b"x")
        started = time.monotonic()
        assert statuses(answer(connection)) == [404]
        seconds_until_closed(connection)
    assert 4 < time.monotonic() - started < 10


def test_a_slow_body_may_come_to_its_end_after_the_answer(hasty: Server) -> None:
    with connected(hasty) as connection:
        connection.sendall(head("POST", "/nowhere", Content_Length=9))
        for _ in range(9):
            # Longer in all than a pause may be.
            time.sleep(0.7)
            connection.sendall(b"x")
        assert statuses(answer(connection)) == [404]
        connection.sendall(LIVEZ)
        assert statuses(answer(connection)) == [200]


WRONG = {
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "unknown method": head("STEAL", "/"),
    "no version": b"GET /livez\r\n\r\n",
    "invalid path": head(path="/\x01"),
    "path that is no ASCII": b"GET /\xff HTTP/1.1\r\nHost: here\r\n\r\n",
    "CONNECT": b"CONNECT here:443 HTTP/1.1\r\nHost: here:443\r\n\r\n",
    "no Host": b"GET /livez HTTP/1.1\r\n\r\n",
    "two Hosts": b"GET /livez HTTP/1.1\r\nHost: here\r\nHost: there\r\n\r\n",
    "both lengths": head("POST", "/predict", Content_Length=5, Transfer_Encoding="chunked")
    + b"0\r\n\r\n",
    "two lengths": b"POST /predict HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n"
    b"Content-Length: 2\r\n\r\nxx",
    "negative length": head("POST", "/predict", Content_Length=-1),
    "signed length": head("POST", "/predict", Content_Length="+5") + b"hello",
    "unknown encoding": head("POST", "/predict", Transfer_Encoding="chunked, hidden")
    + b"0\r\n\r\n",
    "space before the colon": b"GET /livez HTTP/1.1\r\nHost : here\r\n\r\n",
    "folded header": b"GET /livez HTTP/1.1\r\nHost: here\r\nX-A: 1\r\n\tb\r\n\r\n",
    "bare line feeds": b"GET /livez HTTP/1.1\nHost: here\n\n",
    "broken chunk": head("POST", "/predict", Transfer_Encoding="chunked") + b"zz\r\n",
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_valid_request_gets_400(hasty: Server, case: str) -> None:
    with connected(hasty) as connection:
        connection.sendall(WRONG[case])
        data = rest(connection)
    assert statuses(data) == [400]
    assert problem(data)["type"].endswith("/MalformedRequest")


@pytest.mark.parametrize(
    "data",
    [
        head(path="/" + "a" * 100_000),
        head(X_Long="a" * 100_000),
        b"GET /" + b"a" * 300_000,
        b"GET / HTTP/1.1\r\nX-Long: " + b"a" * 300_000,
        b"GET / HTTP/1.1\r\nHost: here\r\n" + b"X-Many: a\r\n" * 10_000,
        head("POST", "/predict", Transfer_Encoding="chunked")
        + b"0\r\nX-Trailer: "
        + b"a" * 900_000,
    ],
)
def test_large_headers_get_431(hasty: Server, data: bytes) -> None:
    with connected(hasty) as connection:
        connection.sendall(data)
        refusal = rest(connection)
    assert problem(refusal)["type"].endswith("/HeadersTooLarge")
    assert statuses(refusal) == [431]


def test_a_request_before_a_wrong_one_is_answered(hasty: Server) -> None:
    with connected(hasty) as connection:
        connection.sendall(PREDICT + b"nonsense\r\n\r\n")
        data = rest(connection)
    assert statuses(data) == [200]
    assert b"connection: close" in data


def test_pipelined_requests_are_answered_in_order_and_not_without_number(hasty: Server) -> None:
    with connected(hasty) as connection:
        connection.sendall((PREDICT + head(path="/nowhere")) * 4)
        data = rest(connection)
    assert statuses(data) == [200, 404] * 4
    with connected(hasty) as connection:
        connection.sendall((PREDICT + LIVEZ * 1000)[:200_000])
        data = rest(connection)
    assert set(statuses(data)) == {200}
    assert 1 <= len(statuses(data)) <= 18
    assert_serves(hasty)


def test_a_request_to_upgrade_is_served_as_it_is(hasty: Server) -> None:
    for upgrade in ("h2c", "websocket"):
        with connected(hasty) as connection:
            asked = head(Connection="Upgrade, HTTP2-Settings", Upgrade=upgrade)
            connection.sendall(asked + LIVEZ)
            data = rest(connection)
        assert statuses(data) == [200, 200]


def test_trailers_do_not_become_headers(hasty: Server) -> None:
    chunks = b"%x\r\n%s\r\n0\r\nContent-Type: text/plain\r\n\r\n" % (len(IMAGE), IMAGE)
    with connected(hasty) as connection:
        connection.sendall(head("POST", "/predict", Transfer_Encoding="chunked") + chunks)
        assert statuses(rest(connection)) == [200]


def test_connections_beyond_the_limit_are_told_so(hasty: Server) -> None:
    others = [socket.create_connection(address_of(hasty), timeout=30) for _ in range(20)]
    try:
        with connected(hasty) as connection:
            started = time.monotonic()
            data = rest(connection)
            assert time.monotonic() - started < 0.5
        assert problem(data)["type"].endswith("/Busy")
        assert b"retry-after: 1" in data
    finally:
        for other in others:
            other.close()
    assert_serves(hasty)


def test_who_holds_all_connections_is_the_only_one_to_be_refused(bundle: Bundle) -> None:
    with running(bundle.path, "--max-connections", "6") as server, contextlib.ExitStack() as stack:

        def hold(source: str = "") -> bytes:
            """Open a connection, leave it open, and give what comes of asking on it."""
            connection = stack.enter_context(connected(server, source))
            connection.sendall(LIVEZ)
            return answer(connection)

        while statuses(found := hold()) == [200]:
            pass
        assert problem(found)["detail"] == "There are 6 connections already."
        # Another address has as many as its share.
        assert [statuses(hold("127.0.0.2")) for _ in range(3)] == [[200]] * 3
        refused = problem(hold("127.0.0.2"))
        assert refused["detail"] == "There are 9 connections already, 3 of them from this address."
        assert [statuses(hold("127.0.0.3")) for _ in range(2)] == [[200]] * 2
        assert statuses(hold("127.0.0.3")) == [503]
        assert statuses(hold()) == [503]
        # Of all together, twice as many as one may have.
        assert statuses(hold("127.0.0.4")) == [200]
        assert statuses(hold("127.0.0.5")) == [503]
    assert server.log == []


@pytest.mark.slow
def test_clients_that_neither_read_nor_send_are_left(bundle: Bundle) -> None:
    """One asks for a large file again and again, and reads nothing; another's body trickles."""
    asked = head(path="/static_content/swagger-ui-bundle.js")
    with (
        running(bundle.path) as server,
        connected(server) as deaf,
        connected(server) as slow,
    ):
        worker = server.children()[0]
        before = worker.memory_info().rss
        for _ in range(20_000):
            deaf.sendall(asked)
        assert worker.memory_info().rss - before < 64 * 2**20
        assert_serves(server)
        started = time.monotonic()
        slow.sendall(head("POST", "/predict", Content_Length=1000))
        slow.settimeout(0.5)
        held, told = 0.0, 0.0
        data = b""
        while time.monotonic() - started < 60 and not (held and told):
            if not held and not worker_holds(worker, deaf):
                held = time.monotonic() - started
            if told:
                time.sleep(0.5)
                continue
            slow.sendall(b"x")
            with contextlib.suppress(TimeoutError):
                data = slow.recv(65536)
                told = time.monotonic() - started
        assert 20 < held < 45
        assert statuses(data) == [408]
        assert 25 < told < 40
        assert_serves(server)
        with server.client() as client:
            metrics = client.get("/metrics").text
        assert 'tlserve_requests_total{face="predict",status="408"} 1.0' in metrics


def worker_holds(worker: object, connection: socket.socket) -> bool:
    port = connection.getsockname()[1]
    found = worker.net_connections("tcp")  # type: ignore[attr-defined]
    return any(c.raddr and c.raddr.port == port and c.status == "ESTABLISHED" for c in found)


def test_a_thousand_connections_of_a_slow_client_harm_nobody(bundle: Bundle) -> None:
    with running(bundle.path, "--max-connections", "1500") as server:
        held = [socket.create_connection(address_of(server), timeout=30) for _ in range(900)]
        try:
            for connection in held:
                connection.sendall(LIVEZ[:20])
            started = time.monotonic()
            assert_serves(server)
            assert time.monotonic() - started < 2
            time.sleep(12)
            # All have been told, and closed.
            assert all(statuses(connection.recv(65536)) == [408] for connection in held)
        finally:
            for connection in held:
                connection.close()
