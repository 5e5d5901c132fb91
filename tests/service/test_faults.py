"""The service is ended, killed and cut off while clients use it."""

from __future__ import annotations

import os
import random
import re
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from pathlib import Path

import httpx
import pytest

from tests.service import bundle as bundles
from tests.service.raw import address_of, answer, connected, head, statuses, whole
from tests.service.server import Server, command, running
from tlserve.bundle import Bundle

IMAGE = bundles.image(0)
PREDICT = head("POST", "/predict", Content_Length=len(IMAGE)) + IMAGE
CLIENTS = 16


class Load:
    """Clients in a closed loop, with short pauses, each on its own keep-alive connection.

    They count what becomes of each request: ``answered``; ``refused`` where there is no connection
    to be had; ``closed`` where a connection that had been idle ended without a byte of an answer;
    ``cut`` where an answer had begun.
    """

    def __init__(self, server: Server, *, reconnect: bool) -> None:
        self.outcomes: Counter[str] = Counter()
        self.last_connection: list[str] = []
        self._address = address_of(server)
        self._reconnect = reconnect
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._client) for _ in range(CLIENTS)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(60)

    def wait_for(self, answers: int) -> None:
        deadline = time.monotonic() + 60
        while self.outcomes["answered"] < answers:
            assert time.monotonic() < deadline, self.outcomes
            time.sleep(0.02)

    def wait_until_all_have_ended(self) -> None:
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()

    def _client(self) -> None:
        while not self._over.is_set():
            try:
                connection = socket.create_connection(self._address, timeout=60)
            except OSError:
                self.outcomes["refused"] += 1
                return
            with connection:
                self._ask_while_it_lasts(connection)
            if not self._reconnect:
                return

    def _ask_while_it_lasts(self, connection: socket.socket) -> None:
        pause = random.Random()  # noqa: S311
        while not self._over.is_set():
            outcome, last = ask(connection)
            self.outcomes[outcome] += 1
            if last:
                return
            # The end of the service finds connections idle, and requests on their way, too.
            time.sleep(pause.uniform(0, 0.03))


def ask(connection: socket.socket) -> tuple[str, bool]:
    """Send a request; say what became of it, and whether the connection has ended."""
    data = b""
    try:
        connection.sendall(PREDICT)
        while not whole(data):
            part = connection.recv(65536)
            if not part:
                break
            data += part
    except OSError:
        pass
    if not data:
        return "closed", True
    if not whole(data):
        return "cut", True
    assert statuses(data) == [200], data
    return "answered", b"connection: close" in data


@pytest.mark.parametrize("attempt", range(3))
def test_sigterm_under_load_loses_nothing(bundle: Bundle, attempt: int) -> None:
    with running(bundle.path) as server:
        with Load(server, reconnect=False) as load:
            load.wait_for(100 + 37 * attempt)
            server.process.send_signal(signal.SIGTERM)
            load.wait_until_all_have_ended()
        assert server.process.wait(30) == 0
    assert load.outcomes["answered"] > 100
    assert set(load.outcomes) == {"answered"}
    assert server.log == []


def test_sigterm_with_clients_that_come_again(bundle: Bundle) -> None:
    with running(bundle.path) as server:
        with Load(server, reconnect=True) as load:
            load.wait_for(100)
            server.process.send_signal(signal.SIGTERM)
            load.wait_until_all_have_ended()
        assert server.process.wait(30) == 0
    # "closed": connected, but still in the kernel's queue when the socket was closed.
    assert load.outcomes["cut"] == 0
    assert load.outcomes["closed"] <= 2
    assert load.outcomes["refused"] >= CLIENTS - 2


def test_a_connection_that_has_begun_is_served_at_the_end(bundle: Bundle) -> None:
    with (
        running(bundle.path) as server,
        connected(server) as silent,
        connected(server) as begun,
        connected(server) as idle,
    ):
        idle.sendall(head())
        assert statuses(answer(idle)) == [200]
        begun.sendall(PREDICT[:10])
        time.sleep(0.3)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.4)
        # Readiness is over; what is on its way is answered.
        silent.sendall(head(path="/readyz"))
        last = answer(silent)
        assert statuses(last) == [503]
        assert b"connection: close" in last
        assert idle.recv(65536) == b""
        begun.sendall(PREDICT[10:])
        last = answer(begun)
        assert statuses(last) == [200]
        assert b"connection: close" in last
        assert server.process.wait(30) == 0
    assert server.log == []


def test_a_killed_worker_costs_only_what_it_had_begun(bundle: Bundle) -> None:
    with running(bundle.path) as server:
        with Load(server, reconnect=True) as load:
            load.wait_for(100)
            (worker,) = server.children()
            os.kill(worker.pid, signal.SIGKILL)
            before = load.outcomes["answered"]
            load.wait_for(before + 200)
        # Each client had one request with the worker that was killed.
        assert load.outcomes["refused"] == 0
        assert load.outcomes["closed"] + load.outcomes["cut"] <= CLIENTS
        (replacement,) = server.children()
        assert replacement.pid != worker.pid
    assert [line for line in server.log if "Traceback" in line] == []


def test_a_worker_that_is_killed_again_and_again_is_replaced_each_time(bundle: Bundle) -> None:
    with running(bundle.path) as server, server.client() as client:
        for _ in range(3):
            (worker,) = server.children()
            worker.kill()
            worker.wait(10)
            assert client.post("/predict", content=IMAGE).status_code == 200


def start(
    *arguments: str | Path, stdout: int | None, stderr: int | None
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command(*arguments), stdout=stdout, stderr=stderr)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def assert_answers(port: int) -> None:
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 60
    with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
        while True:
            try:
                assert client.post("/predict", content=IMAGE).status_code == 200
                break
            except httpx.TransportError:
                assert time.monotonic() < deadline
                time.sleep(0.1)
        for _ in range(20):
            assert client.post("/predict", content=b"broken").status_code == 400
            assert client.post("/predict", content=IMAGE).status_code == 200


def test_a_full_disk_for_the_log_does_not_end_the_service(bundle: Bundle) -> None:
    port = free_port()
    with Path("/dev/full").open("wb") as full:
        process = start(
            bundle.path, "--port", str(port), stdout=full.fileno(), stderr=full.fileno()
        )
    try:
        assert_answers(port)
    finally:
        process.terminate()
        assert process.wait(60) == 0


@pytest.mark.parametrize("closed", ["1", "2", "1 2", "0 1 2"])
def test_closed_standard_streams_do_not_end_the_service(bundle: Bundle, closed: str) -> None:
    port = free_port()
    closing = " ".join(f"{number}>&-" for number in closed.split())
    shell = f'exec "$@" {closing}'
    process = subprocess.Popen(
        ["/bin/sh", "-c", shell, "sh", *command(bundle.path, "--port", str(port))],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert_answers(port)
    finally:
        process.terminate()
        assert process.wait(60) == 0


def test_a_reader_of_the_log_that_goes_away_does_not_end_the_service(bundle: Bundle) -> None:
    port = free_port()
    process = start(
        *(bundle.path, "--port", str(port)), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        process.stdout.close()
        process.stderr.close()
        assert_answers(port)
        (worker,) = children(process.pid)
        os.kill(worker, signal.SIGKILL)
        assert_answers(port)
    finally:
        process.terminate()
        assert process.wait(60) == 0


def children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in text.split()]


def test_clients_that_leave_or_hang_harm_nobody(bundle: Bundle) -> None:
    with running(bundle.path) as server:
        address = address_of(server)
        hanging = []
        for number in range(100):
            connection = socket.create_connection(address, timeout=30)
            connection.sendall(PREDICT[: len(PREDICT) * (number % 10 + 1) // 10])
            if number % 2:
                # Without a word: the kernel sends a reset.
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                connection.close()
            else:
                hanging.append(connection)
        with server.client() as client:
            for _ in range(10):
                started = time.monotonic()
                assert client.post("/predict", content=IMAGE).status_code == 200
                assert time.monotonic() - started < 5
        for connection in hanging:
            connection.close()
        assert server.end() == 0
    assert server.log == []


def test_nothing_is_computed_for_clients_that_have_left(bundle: Bundle) -> None:
    with running(bundle.path) as server, server.client() as client:
        for _ in range(40):
            with connected(server) as connection:
                connection.sendall(PREDICT)
        assert client.post("/predict", content=IMAGE).status_code == 200
        text = client.get("/metrics").text
        assert "Traceback" not in "".join(server.log)
    (left,) = re.findall(r'^tlserve_requests_total{face="predict",status="499"} (\S+)$', text, re.M)
    (images,) = re.findall(r"^tlserve_batch_size_sum (\S+)$", text, re.M)
    assert float(left) > 0
    assert float(images) <= 20, "some were running when their clients left"
