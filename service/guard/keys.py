"""API keys: made here, kept as hashes, read from a file and from the environment.

A key has 256 random bits, so a plain SHA-256 of it is enough: there is nothing to guess. The slow
hashes that passwords need would cost a quarter of a second of each request.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import re
import secrets
import time
from collections.abc import Callable
from pathlib import Path

from tlserve.errors import UsageError

logger = logging.getLogger(__name__)

PREFIX = "tlserve_"
"""Every key begins so: programs that look for leaked secrets can find it."""

_LINE = re.compile(r"(?P<name>[A-Za-z0-9._-]{1,64}):(?P<hash>[0-9a-fA-F]{64})")
_LOOK_SECONDS = 1.0

_HINT = "A line is name:hash, as `tlserve key NAME` prints it; # begins a comment."


def make(name: str) -> tuple[str, str]:
    """Make a key.

    Args:
        name: Whose it is: letters, digits, dot, dash and underscore.

    Returns:
        The key, for the client, and the line, for the service's file.

    Raises:
        UsageError: The name has other characters.
    """
    key = PREFIX + secrets.token_urlsafe(32)
    line = f"{name}:{_hashed(key.encode()).hex()}"
    if not _LINE.fullmatch(line):
        raise UsageError(
            f"A key's name has 1 to 64 letters, digits, dots, dashes and underscores, not {name!r}."
        )
    return key, line


def append(line: str, path: Path) -> None:
    """Add a key's line to a file, which is made if there is none, readable for its owner only.

    Raises:
        UsageError: It cannot be written.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "r+b") as file:
            text = file.read()
            file.write(("" if text.endswith(b"\n") or not text else "\n").encode() + line.encode())
            file.write(b"\n")
    except OSError as error:
        raise UsageError(f"Cannot write the keys to {path}: {error.strerror}.") from error


class KeyRing:
    """The keys that are accepted; a file of them is read again when it changes.

    Args:
        given: Lines, or lines separated by commas.
        path: A file of lines.
        clock: Gives seconds.

    Raises:
        UsageError: There is no key, or one that cannot be read: a service that was meant to be
            closed must not start open.
    """

    def __init__(
        self, given: str | None, path: Path | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._path = path
        self._clock = clock
        self._given = _parsed(given, "TLSERVE_API_KEYS") if given else []
        self._seen: tuple[int, int, int] | None = None
        self._looked = clock()
        self._keys = self._given
        if path is not None:
            self._seen = _state(path)
            self._keys = [*self._given, *_read(path)]

    def name_of(self, presented: bytes) -> str | None:
        """Name the client whose key this is; ``None`` if it is nobody's."""
        self._look()
        digest = _hashed(presented)
        found = None
        # All are compared, each in constant time: how long it takes says nothing of the hashes.
        for name, known in self._keys:
            if hmac.compare_digest(known, digest):
                found = name
        return found

    def _look(self) -> None:
        """Read the file again if it is another one than before; keep the keys if it is broken."""
        now = self._clock()
        if self._path is None or now - self._looked < _LOOK_SECONDS:
            return
        self._looked = now
        state = _state(self._path)
        if state == self._seen:
            return
        self._seen = state
        try:
            self._keys = [*self._given, *_read(self._path)]
        except UsageError as error:
            logger.error("The API keys are not replaced, the earlier ones stay: %s", error)
        else:
            logger.warning("The API keys were read again: there are %d.", len(self._keys))


def _hashed(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _state(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size


def _read(path: Path) -> list[tuple[str, bytes]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise UsageError(
            f"Cannot read the API keys in {path}: {reason}.",
            hint=f"Make a key with `tlserve key NAME --append {path}`.",
        ) from error
    return _parsed(text, str(path))


def _parsed(text: str, source: str) -> list[tuple[str, bytes]]:
    keys = []
    for number, line in enumerate(text.splitlines(), 1):
        for entry in line.partition("#")[0].split(","):
            if not entry.strip():
                continue
            match = _LINE.fullmatch(entry.strip())
            if match is None:
                # The entry itself is not shown: it may be a key.
                raise UsageError(f"{source}, line {number}, is not an API key.", hint=_HINT)
            keys.append((match["name"], bytes.fromhex(match["hash"])))
    if not keys:
        raise UsageError(f"{source} has no API key.", hint=_HINT)
    return keys
