"""Processes that load images leave signals to the main process."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bundles import SPEC
from tests.folders import write_flat
from tlserve.data.folder import scan
from tlserve.data.loading import ImageDataset, ViewBatches, loader

# The loader is still referred to when the interpreter ends, as it is after an error.
_PROGRAM = """
import sys
from pathlib import Path
from tests.bundles import SPEC
from tlserve.data.folder import scan
from tlserve.data.loading import ImageDataset, ViewBatches, loader

folder = scan(Path(sys.argv[1]))
dataset = ImageDataset(folder.root, folder.train, SPEC)
batches = loader(dataset, ViewBatches(len(dataset), 1, seed=0, shuffle=False), 2)
iterator = iter(batches)
next(iterator)
sys.modules["kept"] = [batches, iterator]
print("done")
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_workers_does_not_end_them(number: int, tmp_path: Path) -> None:
    folder = scan(write_flat(tmp_path, 6))
    dataset = ImageDataset(folder.root, folder.train, SPEC)
    batches = loader(dataset, ViewBatches(len(dataset), 1, seed=0, shuffle=False), 2)
    before = set(multiprocessing.active_children())
    iterator = iter(batches)
    # One from each, so that both have begun.
    next(iterator)
    next(iterator)
    workers = set(multiprocessing.active_children()) - before
    assert len(workers) == 2
    for worker in workers:
        assert worker.pid is not None
        os.kill(worker.pid, number)
    assert len(list(iterator)) == 16
    assert len(list(batches)) == 18
    assert all(worker.is_alive() for worker in workers)


def test_the_program_ends_though_its_workers_do_not_heed_signals(
    repository: Path, tmp_path: Path
) -> None:
    write_flat(tmp_path, 6)
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(tmp_path)],
        cwd=repository,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout == "done\n"
