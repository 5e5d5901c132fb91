"""HTTP by hand: for what no client library would send."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.service.server import Server


def address_of(server: Server) -> tuple[str, int]:
    host, _, port = server.url.rpartition("://")[2].rpartition(":")
    return host, int(port)


@contextmanager
def connected(server: Server, source: str = "") -> Iterator[socket.socket]:
    """Connect, from one of this machine's own addresses if it matters which."""
    own = (source, 0) if source else None
    with socket.create_connection(address_of(server), 30, own) as connection:
        yield connection


def head(method: str = "GET", path: str = "/livez", **headers: str | int) -> bytes:
    fields = {"Host": "here"} | {name.replace("_", "-"): str(v) for name, v in headers.items()}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def rest(connection: socket.socket) -> bytes:
    """Read until the server closes."""
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    return b"".join(parts)


def answer(connection: socket.socket) -> bytes:
    """Read one whole answer, or what there is of it."""
    data = b""
    while not whole(data) and (part := connection.recv(65536)):
        data += part
    return data


def whole(data: bytes) -> bool:
    """Whether an answer has come to its end."""
    top, end, body = data.partition(b"\r\n\r\n")
    length = re.search(rb"(?im)^content-length: (\d+)", top)
    return bool(end) and length is not None and len(body) >= int(length[1])


def statuses(data: bytes) -> list[int]:
    """Find the status of each answer."""
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", data)]


def problem(data: bytes) -> dict[str, Any]:
    """Parse the problem document of a single answer."""
    top, _, body = data.partition(b"\r\n\r\n")
    assert b"application/problem+json" in top, data
    assert b"connection: close" in top
    found: dict[str, Any] = json.loads(body)
    return found


def seconds_until_closed(connection: socket.socket) -> tuple[float, bytes]:
    started = time.monotonic()
    try:
        data = rest(connection)
    except ConnectionResetError:
        data = b""
    return time.monotonic() - started, data
