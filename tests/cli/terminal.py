"""Commands on a terminal of their own."""

from __future__ import annotations

import fcntl
import os
import re
import struct
import subprocess
import sys
import termios

_COLOURS_AND_MOVES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def on_a_terminal(*arguments: object, columns: int = 80) -> tuple[int, list[str]]:
    """Run Python with its outputs on a terminal.

    Returns:
        The exit code; and each line that was drawn, one after the other, without colours.
    """
    own, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "NO_COLOR")}
    with subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        env={**environment, "TERM": "xterm-256color"},
    ) as process:
        os.close(theirs)
        drawn = b"".join(iter(lambda: _read(own), b""))
    os.close(own)
    text = _COLOURS_AND_MOVES.sub("", drawn.decode())
    return process.returncode, [line.rstrip() for line in re.split(r"[\r\n]+", text)]


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:
        # Linux says so when the last process has closed its side.
        return b""
