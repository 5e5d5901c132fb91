"""File operations that either happen or do not."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from tlserve.errors import StorageError

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def sha256_of(path: Path) -> str:
    """Give the SHA-256 of a file as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def writing_to(path: Path) -> Iterator[None]:
    """Turn what the disk refuses into an error that says what and where.

    Raises:
        StorageError: No space, no permission, a read-only file system.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            hint = "Free some space, or write to another disk with --output."
        else:
            hint = "Choose a folder that you may write to with --output."
        reason = error.strerror or str(error)
        raise StorageError(f"Cannot write to {path}: {reason}.", hint=hint) from error


def flush_to_disk(path: Path) -> None:
    """Force a file or a folder's entries to the disk (``fsync``)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file beside its place, then rename it into place.

    Yields:
        The path to write to. If the block raises, ``path`` is as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with writing_to(path):
            yield temporary
            flush_to_disk(temporary)
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes that also ask from changing a folder's entries; waits for them.

    Where the file system has no locks, nothing is locked.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def exchange(first: Path, second: Path) -> None:
    """Swap two directories in one step, so that at no moment either name is absent.

    Where the system has no such call (``renameat2`` is Linux's), three renames stand in for it.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        # Not every C library has it: musl's got it late.
        if hasattr(libc, "renameat2"):
            result = libc.renameat2(
                _AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE
            )
            if result == 0:
                return
            code = ctypes.get_errno()
            if code not in (errno.EINVAL, errno.ENOSYS):
                raise OSError(code, os.strerror(code), str(first))
    aside = second.with_name(f".{second.name}.{os.getpid()}.old")
    second.rename(aside)
    try:
        first.rename(second)
    except OSError:
        aside.rename(second)
        raise
    aside.rename(first)
