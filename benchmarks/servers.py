"""Server processes to be measured: started, awaited, set aside, looked at and ended. Linux only."""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.load.plan import Plan
from benchmarks.load.requests import prepared

_ROOT = Path(__file__).resolve().parent.parent
_START_SECONDS = 60
_END_SECONDS = 20
_PAUSE = 0.02
_LOG = 3000
"""Characters of what a server wrote that are shown."""


@dataclass(frozen=True)
class Memory:
    """What a server's processes hold together, in bytes.

    Attributes:
        pss: A page that several processes share counts once.
        rss: It counts for each of them.
        processes: How many there are.
    """

    pss: int
    rss: int
    processes: int


class Server:
    """A running server.

    Attributes:
        port: Where it listens on 127.0.0.1.
        ready_seconds: From its process's start to its first answer.
    """

    def __init__(self, process: psutil.Process, port: int, ready_seconds: float) -> None:
        self.port = port
        self.ready_seconds = ready_seconds
        self._root = process

    def memory(self) -> Memory:
        """Look at the memory of all its processes."""
        found = [p.memory_full_info() for p in self._processes()]
        return Memory(sum(m.pss for m in found), sum(m.rss for m in found), len(found))

    def cpu_seconds(self) -> float:
        """Give the processor time that all its processes have had."""
        times = [process.cpu_times() for process in self._processes()]
        return float(sum(t.user + t.system for t in times))

    def pause(self) -> None:
        """Stop its processes: some go on using the processor when there is nothing to do."""
        for process in self._processes():
            process.suspend()

    def resume(self) -> None:
        """Let its processes go on."""
        for process in self._processes():
            process.resume()

    def _processes(self) -> list[psutil.Process]:
        return [self._root, *self._root.children(recursive=True)]


@contextlib.contextmanager
def running(
    command: Sequence[str], environment: Mapping[str, str], probe: Plan
) -> Iterator[Server]:
    """Start a server, wait for its first answer, and end it afterwards.

    Args:
        command: The program and its arguments; ``{port}`` in them is a free port.
        environment: What is set beside this process's environment. What that says of threads is
            left out: servers have their own defaults.
        probe: How a server of this kind is asked; the port is another.
    """
    port = free_port()
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "MKL_"))}
    with tempfile.TemporaryFile("w+") as log:
        started = time.perf_counter()
        process = subprocess.Popen(
            [part.format(port=port) for part in command],
            cwd=_ROOT,
            env=inherited | dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            seconds = _first_answer(process, port, probe, started)
            if seconds is None:
                log.seek(0)
                sys.exit(f"{' '.join(command)} does not answer:\n{log.read()[-_LOG:]}")
            yield Server(psutil.Process(process.pid), port, round(seconds, 3))
        finally:
            _end(process)


class Others:
    """The processor time that goes to neither what is measured nor what measures.

    Args:
        server: What is measured, if it is a server; else it is a process below this one that has
            ended when :meth:`cores` is asked.
    """

    def __init__(self, server: Server | None = None) -> None:
        self._server = server
        self._started = time.perf_counter()
        self._before = self._unexplained()

    def cores(self) -> float:
        """Give how many cores they had on average since this was made."""
        seconds = time.perf_counter() - self._started
        return round(max(0.0, self._unexplained() - self._before) / seconds, 2)

    def _unexplained(self) -> float:
        times = psutil.cpu_times()
        # The time of guests is in that of users already.
        idle = times.idle + times.iowait + times.guest + times.guest_nice
        mine = sum(os.times()[:4])
        return float(sum(times) - idle - mine - (self._server.cpu_seconds() if self._server else 0))


def end_in_order() -> None:
    """Take SIGTERM as an exit: else servers would be left behind, some of them stopped."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))


def free_port() -> int:
    """Find a port that nothing listens on."""
    # Not one that the kernel would choose: before the server has it, a connection may.
    for port in random.sample(range(20_000, 32_000), 100):
        with socket.socket() as found, contextlib.suppress(OSError):
            found.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("A hundred ports between 20000 and 32000 are all in use.")


def _first_answer(
    process: subprocess.Popen[bytes], port: int, probe: Plan, started: float
) -> float | None:
    """Ask until there is an answer; ``None``: there will be none."""
    head, _, body = prepared(probe)[0].partition(b"\r\n\r\n")
    fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
    fields["Host"] = f"127.0.0.1:{port}"
    while process.poll() is None and time.perf_counter() - started < _START_SECONDS:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_START_SECONDS)
        try:
            connection.request("POST", probe.path, body, fields)
            status = connection.getresponse().status
            if status == http.client.OK:
                return time.perf_counter() - started
            if status < http.client.INTERNAL_SERVER_ERROR:
                # It is ready, and does not understand the question.
                return None
        except (OSError, http.client.HTTPException):
            pass
        finally:
            connection.close()
        time.sleep(_PAUSE)
    return None


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a server and all that it started, stopped or not."""
    try:
        root = psutil.Process(process.pid)
        everyone = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        everyone = []
    for one in everyone:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.resume()
    if everyone:
        process.terminate()
    try:
        process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for one in everyone[1:]:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
