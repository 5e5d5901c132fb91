"""Freed memory stays with the process."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

_PROGRAM = """
import resource, sys
import numpy as np

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        np.empty(64 * 2**20, np.uint8).fill(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

usual = faults()
PREPARE
faults()
print(usual, faults())
"""


_BY_ITSELF = """
from tlserve.runtime.allocator import keep_freed_memory
assert keep_freed_memory()
"""

_BY_A_BACKEND = """
import torch
from tlserve.runtime.eager import TorchBackend
TorchBackend(torch.nn.Identity(), torch.device("cpu"), 1)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
@pytest.mark.parametrize("prepare", [_BY_ITSELF, _BY_A_BACKEND], ids=["called", "by a backend"])
def test_memory_that_is_asked_for_again_is_not_cleared_again(prepare: str) -> None:
    program = _PROGRAM.replace("PREPARE", prepare)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    usual, kept = map(int, done.stdout.split())
    assert kept < usual / 10, done.stderr
