"""A real Prometheus that watches a real service with the files of ``deploy/compose``."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.service import bundle as bundles

_START_SECONDS = 30


@dataclass
class Watching:
    """A running Prometheus.

    Attributes:
        url: Where it listens.
    """

    url: str

    def ask(self, path: str, **parameters: str) -> Any:
        """Ask its HTTP API; gives the ``data`` of the answer."""
        with httpx.Client(base_url=self.url, timeout=30, trust_env=False) as client:
            answer = client.get(f"/api/v1/{path}", params=parameters).json()
        assert answer["status"] == "success", answer
        return answer["data"]

    def values(self, expression: str) -> list[float]:
        """Evaluate an expression now; gives the values of its series that are numbers."""
        found = self.ask("query", query=expression)["result"]
        values = [float(series["value"][1]) for series in found]
        return [value for value in values if value == value]

    def wait_until(self, expression: str, seconds: float) -> None:
        """Wait until an expression has a result."""
        deadline = time.monotonic() + seconds
        while not self.values(expression):
            assert time.monotonic() < deadline, f"no result in {seconds} s: {expression}"
            time.sleep(0.5)


def replaced(text: str, changes: dict[str, str]) -> str:
    """Replace strings that each occur once."""
    for old, new in changes.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


@contextmanager
def watching(
    program: str, files: Path, folder: Path, *, target: str, credentials: Path
) -> Iterator[Watching]:
    """Start Prometheus with the files of Compose, in which only the addresses are others.

    Args:
        program: Prometheus.
        files: The folder that its container sees as ``/etc/prometheus``.
        folder: Where to put a copy of it, and the data.
        target: The service's host and port.
        credentials: The file that its container sees as a secret.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    shutil.copytree(files, folder / "etc")
    configuration = folder / "etc" / "prometheus.yml"
    changes = {
        "tlserve:3000": target,
        "localhost:9090": address,
        "/run/secrets/metrics_key": str(credentials),
    }
    configuration.write_text(replaced(configuration.read_text(), changes))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                program,
                f"--config.file={configuration}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={address}",
            ],
            stdout=log,
            stderr=log,
        )
    try:
        _wait_for(f"http://{address}/-/ready", process, folder / "log")
        yield Watching(f"http://{address}")
    finally:
        process.terminate()
        process.wait(30)


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        try:
            if httpx.get(url, trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            pass  # It does not listen yet.
        time.sleep(0.1)


@contextmanager
def traffic(url: str, key: str) -> Iterator[None]:
    """Send all sorts of requests until the block ends: good, wrong, without a key, too many."""
    images = [bundles.image(seed) for seed in range(8)]
    ended = threading.Event()

    def send() -> None:
        headers = {"Authorization": f"Bearer {key}"}
        with (
            httpx.Client(base_url=url, timeout=60, trust_env=False) as client,
            ThreadPoolExecutor(16) as crowd,
        ):
            while not ended.wait(0.2):
                client.post("/predict", content=images[0])
                client.post("/predict", content=b"not an image", headers=headers)
                client.get("/v2/health/ready")
                burst = [
                    crowd.submit(client.post, "/predict", content=image, headers=headers)
                    for image in images * 4
                ]
                statuses.update(one.result().status_code for one in burst)

    statuses: set[int] = set()
    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    assert statuses == {200, 503}, statuses
