"""What Docker's health check runs."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import httpx

from service.health import check
from tests.service.server import Server


def test_a_service_that_is_ready(server: Server) -> None:
    port = str(httpx.URL(server.url).port)
    assert check({"TLSERVE_HTTP_PORT": port}) == ""
    done = subprocess.run(
        [sys.executable, "-m", "service.health"],
        env={**os.environ, "TLSERVE_HTTP_PORT": port},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "ready")


def test_one_that_is_not_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert f"does not answer on port {port}" in check({"TLSERVE_HTTP_PORT": str(port)})
    done = subprocess.run(
        [sys.executable, "-m", "service.health"],
        env={**os.environ, "TLSERVE_HTTP_PORT": str(port)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1


def test_plain_http_where_tls_is_said(server: Server) -> None:
    port = str(httpx.URL(server.url).port)
    assert "does not answer" in check({"TLSERVE_HTTP_PORT": port, "TLSERVE_TLS_CERT": "c.pem"})
