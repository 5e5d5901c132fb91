import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from benchmarks.load.plan import Plan
from benchmarks.load.run import drive
from benchmarks.load.tally import Report

ANSWER = b'{"label":"bees","probability":0.75}'
Way = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    way: Way

    def do_POST(self) -> None:
        type(self).way(self)

    def take_body(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))

    def answer(self, body: bytes = ANSWER, status: int = 200, **fields: str) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | fields).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 100

    def handle_error(self, *args: object) -> None:
        # Clients that leave are expected.
        pass


@pytest.fixture
def load(tmp_path: Path) -> Iterator[Callable[..., Report]]:
    image = tmp_path / "image.jpg"
    # More than the kernel takes at once.
    image.write_bytes(bytes(3_000_000))
    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()

        def run(way: Way, **settings: float) -> Report:
            Handler.way = way
            plan = Plan(
                port=server.server_port,
                path="/predict",
                field=None,
                form="flat",
                files=[str(image)],
                expected=[("bees", 0.75)],
                **({"seconds": 0.5, "warm_up": 0.1, "timeout": 5.0} | settings),  # type: ignore[arg-type]
            )
            return drive(plan)

        yield run
        server.shutdown()
        thread.join()


def whole(handler: Handler) -> None:
    handler.take_body()
    handler.answer()


def in_chunks(handler: Handler) -> None:
    handler.take_body()
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    handler.wfile.write(b"5\r\n" + ANSWER[:5] + b"\r\n")
    time.sleep(0.002)
    handler.wfile.write(b"%x;a=b\r\n%s\r\n0\r\n\r\n" % (len(ANSWER[5:]), ANSWER[5:]))


def and_close(handler: Handler) -> None:
    handler.take_body()
    handler.answer(Connection="close")


def and_close_silently(handler: Handler) -> None:
    whole(handler)
    handler.close_connection = True


@pytest.mark.parametrize("way", [whole, in_chunks, and_close, and_close_silently])
@pytest.mark.parametrize("settings", [{"clients": 3}, {"rate": 30.0}], ids=["closed", "open"])
def test_right_answers_are_counted(
    load: Callable[..., Report], way: Way, settings: dict[str, float]
) -> None:
    report = load(way, **settings)
    assert report.answers > 0
    assert report.per_second > 0
    assert (report.wrong, report.errors, report.refused["count"]) == (0, {}, 0)


@pytest.mark.parametrize(
    "body",
    [
        b'{"label":"ants","probability":0.75}',
        b'{"label":"bees","probability":0.76}',
        b'{"label":"bees","probability":NaN}',
        b"{}",
        b"",
    ],
)
def test_wrong_answers_are_not_right(load: Callable[..., Report], body: bytes) -> None:
    def way(handler: Handler) -> None:
        handler.take_body()
        handler.answer(body)

    report = load(way, clients=2)
    assert (report.answers, report.per_second) == (0, 0)
    assert report.wrong > 0


@pytest.mark.parametrize("takes_body", [True, False])
def test_refusals_are_told_apart_even_before_the_body_has_left(
    load: Callable[..., Report], takes_body: bool
) -> None:
    def way(handler: Handler) -> None:
        handler.answer(b"busy", 503)
        if takes_body:
            handler.take_body()
        else:
            handler.close_connection = True

    report = load(way, rate=30.0)
    assert report.refused["count"] > 0
    assert report.refused["p50"] > 0
    assert (report.answers, report.wrong) == (0, 0)


def test_no_answer_is_an_error(load: Callable[..., Report]) -> None:
    def way(handler: Handler) -> None:
        handler.take_body()
        handler.close_connection = True

    assert load(way, clients=2).errors["closed"] > 0


def test_requests_that_a_slow_server_keeps_waiting_have_waited(
    load: Callable[..., Report],
) -> None:
    def way(handler: Handler) -> None:
        time.sleep(0.2)
        whole(handler)

    # 20 a second are due, and one connection has 5 answers a second.
    report = load(way, rate=20.0, connections=1, seconds=1.0)
    assert report.latency["max"] > 1000
    assert report.late["max"] > 1000


def test_as_many_requests_as_asked_for(load: Callable[..., Report]) -> None:
    assert load(whole, clients=2, requests=20, warm_up=0.0).answers in (20, 21)
