"""The command line as a user meets it: a process for each command, its output, its exit code.

The processes are forked from one that has imported the libraries already, which takes longer than
most commands do. What an import does is tested with processes of their own, in tests/cli/.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

ESCAPE = "\x1b["


class Forker:
    """Runs one command at a time; see :mod:`tests.forking`."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.forking"],
            cwd=Path(__file__).parent.parent,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        self._unread = b""

    def start(
        self, *command: object, output: Path, errors: Path, folder: Path | None = None
    ) -> int:
        """Start a command; gives the number of its process."""
        asked = {
            "arguments": [str(part) for part in command],
            "environment": dict(os.environ),
            "folder": str(folder or Path.cwd()),
            "output": str(output),
            "errors": str(errors),
        }
        self._stdin.write(json.dumps(asked).encode() + b"\n")
        self._stdin.flush()
        return int(self._answer("started", 120))

    def ended(self, seconds: float = 300) -> int:
        """Wait for its end; gives its exit code."""
        return int(self._answer("ended", seconds))

    def close(self) -> None:
        self._stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        self._process.kill()
        self._process.wait()
        self._stdout.close()

    def _answer(self, kind: str, seconds: float) -> str:
        end = time.monotonic() + seconds
        while b"\n" not in self._unread:
            if not select.select([self._stdout], [], [], max(0, end - time.monotonic()))[0]:
                raise TimeoutError(f"not {kind} after {seconds} s")
            data = os.read(self._stdout.fileno(), 4096)
            assert data, "the process that forks has ended"
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        word, _, rest = line.decode().partition(" ")
        assert word == kind
        return rest


@functools.cache
def forker() -> Forker:
    """The one of this process."""
    made = Forker()
    atexit.register(made.close)
    return made


def tlserve(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command with its output in files, which is to it what a pipe is."""
    with tempfile.TemporaryDirectory() as temporary:
        output, errors = Path(temporary, "output"), Path(temporary, "errors")
        process = forker().start(*arguments, output=output, errors=errors, folder=cwd)
        try:
            code = forker().ended()
        except BaseException:
            os.kill(process, signal.SIGKILL)
            forker().ended(10)
            raise
        return subprocess.CompletedProcess(
            [*map(str, arguments)], code, output.read_text(), errors.read_text()
        )


def tlserve_anew(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Likewise in a process that imports everything itself."""
    return subprocess.run(
        [sys.executable, "-m", "tlserve", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def fails(code: int, *arguments: object) -> str:
    """Run a command that must fail with a message, and give the message."""
    result = tlserve(*arguments)
    assert result.returncode == code, result.stderr
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.stderr
    assert ESCAPE not in result.stderr
    return result.stderr
