"""A request and its answer over the server's own protocol, with applications made for the test."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.server import ServerState

from service.guard.limits import GATHERED_BYTES, Shared
from service.guard.protocol import GuardedProtocol
from service.holdings import Holdings

LENGTH = (b"content-length", b"5")


class Answers:
    """An application that answers with these messages, and remembers what it was sent."""

    def __init__(self, *messages: dict[str, Any]) -> None:
        self.messages = messages
        self.bodies: list[bytes] = []
        self.parts = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            assert type(message["body"]) is bytes
            body, more = body + message["body"], message["more_body"]
            self.parts += 1
        self.bodies.append(body)
        for message in self.messages:
            await send(message)


def start(*headers: tuple[bytes, bytes], status: int = 200) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": [*headers]}


def body(data: bytes = b"", *, more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


@asynccontextmanager
async def served(
    app: ASGIApp,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Serve an application, and give a connection to it."""
    config = uvicorn.Config(app, http=GuardedProtocol, lifespan="off", log_config=None)
    config.load()
    shared = Shared(connections=Holdings(10), head_seconds=5, idle_seconds=5)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: GuardedProtocol(config, ServerState(), {}, shared), "127.0.0.1", 0
    )
    async with server, asyncio.timeout(20):
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        yield reader, writer
        writer.close()
        await writer.wait_closed()


def talk(app: Answers, *pieces: bytes, answers: int = 1) -> bytes:
    """Send the pieces on one connection, and read until it is closed or all answers are there."""

    async def talking() -> bytes:
        async with served(app) as (reader, writer):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0.02)
            data = b""
            while data.count(b"HTTP/1.1 ") < answers or not data.endswith((b"fives", b"0\r\n\r\n")):
                if not (part := await reader.read(65536)):
                    break
                data += part
        return data

    return asyncio.run(talking())


def request(method: str = "POST", data: bytes = b"", **headers: str) -> bytes:
    fields = {"Host": "here", "Content-Length": str(len(data))} | headers
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"{method} / HTTP/1.1\r\n{lines}\r\n".encode() + data


@pytest.mark.parametrize("size", [0, 1, 70_000, GATHERED_BYTES, GATHERED_BYTES + 1, 3_000_000])
@pytest.mark.parametrize("step", [33_333, 10_000_000])
def test_a_body_arrives_as_it_was_sent(size: int, step: int) -> None:
    data = bytes(i * 31 % 251 for i in range(1021)) * (size // 1021 + 1)
    whole = request(data=data[:size])
    app = Answers(start(LENGTH), body(b"fives"))
    talk(app, *(whole[at : at + step] for at in range(0, len(whole), step)))
    assert app.bodies == [data[:size]]
    # What is no more than may be gathered wakes the application once.
    assert app.parts == 1 or size > GATHERED_BYTES
    assert app.parts > 1 or size < 2 * GATHERED_BYTES


def test_requests_that_come_ahead_keep_their_bodies() -> None:
    app = Answers(start(LENGTH), body(b"fives"))
    sent = [b"first", b"second" * 20_000, b""]
    data = talk(app, b"".join(request(data=part) for part in sent), answers=3)
    assert (app.bodies, data.count(b"fives")) == (sent, 3)


def test_an_answer_has_what_the_application_said() -> None:
    data = talk(Answers(start(LENGTH, (b"x-a", b"b")), body(b"fives")), request())
    top, _, rest = data.partition(b"\r\n\r\n")
    assert top.startswith(b"HTTP/1.1 200 OK\r\n")
    assert {b"content-length: 5", b"x-a: b"} <= set(top.split(b"\r\n"))
    assert rest == b"fives"


def test_an_answer_in_parts_is_sent_in_chunks() -> None:
    data = talk(Answers(start(), body(b"one", more=True), body(b"two")), request())
    top, _, rest = data.partition(b"\r\n\r\n")
    assert b"transfer-encoding: chunked" in top
    assert rest == b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"


def test_the_answer_to_head_has_no_body() -> None:
    app = Answers(start(LENGTH), body(b"fives"))
    data = talk(app, request("HEAD"), request(Connection="close"), answers=2)
    first, second = data.split(b"HTTP/1.1 200 OK\r\n")[1:]
    assert first.endswith(b"\r\n\r\n")
    assert second.endswith(b"\r\n\r\nfives")


def test_a_connection_that_the_client_wants_closed_says_so() -> None:
    data = talk(Answers(start(LENGTH), body(b"fives")), request(Connection="close"), answers=2)
    assert b"connection: close\r\n" in data


def test_an_early_answer_is_not_lost_with_its_connection() -> None:
    async def early(scope: Scope, receive: Receive, send: Send) -> None:
        for message in (start(LENGTH), body(b"fives")):
            await send(message)

    async def talking() -> bytes:
        async with served(early) as (reader, writer):
            # Closed before it is read, the rest would have the answer thrown away on its way.
            writer.write(request(data=bytes(8_000_000), Connection="close"))
            await writer.drain()
            return await reader.read()

    assert asyncio.run(talking()).endswith(b"\r\n\r\nfives")


@pytest.mark.parametrize(
    "messages",
    [
        pytest.param((start(LENGTH, (b"x-a", b"b\r\nx-c: d")), body(b"fives")), id="line break"),
        pytest.param((start(LENGTH, (b"x-a", b"b\nx-c: d")), body(b"fives")), id="line feed"),
        pytest.param((start(LENGTH), body(b"longer")), id="longer than it says"),
        pytest.param((start(LENGTH), body(b"less")), id="shorter than it says"),
        pytest.param((start(LENGTH),), id="no body"),
        pytest.param((), id="nothing"),
    ],
)
def test_a_defect_of_the_application_is_no_answer_to_be_trusted(
    messages: tuple[dict[str, Any], ...], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        data = talk(Answers(*messages), request(), answers=2)
    assert b"x-c" not in data
    assert b"500 Internal Server Error" in data or not data.endswith(b"fives")
    assert "ASGI" in caplog.text
