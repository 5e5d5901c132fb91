"""The same result each time, on a GPU too, where sums are otherwise added in any order."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from tlserve.errors import UsageError

_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Let torch use deterministic algorithms only, if that is wanted.

    See https://docs.pytorch.org/docs/stable/notes/randomness.html. To be entered before the first
    use of a GPU: cuBLAS reads its workspace's size once.

    Raises:
        UsageError: The network has an operation without such an algorithm on the device.
    """
    if not wanted:
        yield
        return
    os.environ.setdefault(_WORKSPACE, ":4096:8")
    before = torch.are_deterministic_algorithms_enabled()
    searched = torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    # Otherwise cuDNN tries several algorithms and takes the one that was fastest this time.
    torch.backends.cudnn.benchmark = False
    try:
        yield
    except RuntimeError as error:
        text = " ".join(str(error).split())
        if "deterministic" not in text:
            raise
        raise UsageError(
            f"--deterministic: the network has an operation that is not: {text[:200]}",
            hint="Leave --deterministic away, or choose another --arch.",
        ) from error
    finally:
        torch.use_deterministic_algorithms(before)
        torch.backends.cudnn.benchmark = searched
