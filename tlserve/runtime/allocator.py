"""The C library's memory allocator, set for a network that torch runs on a CPU."""

from __future__ import annotations

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
"""Parameters of ``mallopt(3)``."""

_NEVER = -1


def keep_freed_memory() -> bool:
    """Let glibc keep what is freed instead of giving it back to the operating system.

    Each step of training and each batch of answers frees its activations and asks for as much
    again. By default glibc gives blocks of that size back at once, and the kernel clears every page
    of them when they are asked for anew; on a CPU that can take as long as the computation. The
    price is that the process stays as large as it was at its largest.

    ONNX Runtime needs none of this: it keeps its memory itself.

    Returns:
        Whether it was done; other C libraries have other allocators, which are left as they are.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, _NEVER))
