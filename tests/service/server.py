"""A server process for tests: started by the real command, polled, ended by its process id."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

_START_SECONDS = 60
_END_SECONDS = 60


@dataclass
class Server:
    """A running ``tlserve serve``."""

    process: subprocess.Popen[str]
    ready_line: str = ""
    log: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        found = re.search(r"http://[^ ]+", self.ready_line)
        assert found, f"not ready: {self.ready_line!r} {''.join(self.log)}"
        return found.group()

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60, trust_env=False)

    def children(self) -> list[psutil.Process]:
        return list(psutil.Process(self.process.pid).children(recursive=True))

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(_END_SECONDS)


def command(*arguments: str | Path) -> list[str]:
    return [str(Path(sys.executable).with_name("tlserve")), "serve", *map(str, arguments)]


@contextmanager
def running(
    *arguments: str | Path,
    environment: dict[str, str] | None = None,
    directory: Path | None = None,
) -> Iterator[Server]:
    """Start ``tlserve serve`` on a free port; the block begins when it says that it is ready."""
    process = subprocess.Popen(
        command(*arguments, "--port", "0"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=directory,
        env={**os.environ, **(environment or {})},
    )
    server = Server(process)
    assert process.stdout is not None
    assert process.stderr is not None
    errors = process.stderr
    reader = threading.Thread(target=lambda: server.log.extend(errors))
    reader.start()
    # A start that hangs ends here, and the empty line below fails the test.
    watchdog = threading.Timer(_START_SECONDS, process.kill)
    watchdog.start()
    try:
        server.ready_line = process.stdout.readline()
        watchdog.cancel()
        yield server
    finally:
        watchdog.cancel()
        if process.poll() is None:
            process.terminate()
        process.wait(_END_SECONDS)
        reader.join()
        process.stdout.close()
        process.stderr.close()


def failing(
    *arguments: str | Path, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a ``tlserve serve`` that is expected to end by itself."""
    return subprocess.run(
        command(*arguments),
        capture_output=True,
        text=True,
        timeout=_START_SECONDS,
        check=False,
        env={**os.environ, **(environment or {})},
    )
