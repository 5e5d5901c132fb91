"""A run that ends at any moment goes on to the very weights of one that was left alone."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from tests.commands import fails, forker, tlserve
from tests.folders import mislabel, write_parts
from tests.networks import stand_in
from tlserve.bundle import Bundle
from tlserve.bundle.files import sha256_of

SETTINGS = ("--arch", "mobilenet_v3_small", "--image-size", 32, "--batch-size", 5, "--workers", 0)
"""Its dropout draws from the random numbers of the process, its batch norms have statistics."""

EVERYTHING = (
    *("--strategy", "gradual", "--ema", 0.9, "--mixup", 0.3, "--cutmix", 0.3, "--clip-grad", 1),
    *("--schedule", "cosine", "--balance", "sampler", "--auto-augment", "trivialaugment"),
)

RUNS = {
    "full": ("--strategy", "full", "--epochs", 4),
    "feature-extraction": ("--epochs", 8),
    "gradual, everything": (*EVERYTHING, "--epochs", 6),
    "sgd, step": ("--strategy", "full", "--optimizer", "sgd", "--schedule", "step", "--epochs", 4),
    "auto": ("--strategy", "auto", "--epochs", 3),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = write_parts(tmp_path_factory.mktemp("data") / "data", train=12, val=4)
    # Something to win for whoever trains on after a probe.
    mislabel(data, "red", as_name="blue")
    return data


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "backbone.pth"
    torch.save(stand_in("mobilenet_v3_small", 10, 32).state_dict(), path)
    return path


def arguments(data: Path, backbone: Path, home: Path, *options: object) -> list[str]:
    command = [
        *("finetune", data, "--name", "run", "--weights", backbone, *SETTINGS),
        *("--save-every", 0, "--output", home / "models", "--runs", home / "runs", *options),
    ]
    return [str(part) for part in command]


def weights_of(home: Path) -> str:
    bundle = Bundle.read(home / "models" / "run")
    return sha256_of(bundle.path / "weights.safetensors")


def history_of(home: Path) -> list[dict[str, str]]:
    timed = ("seconds", "images_per_second")
    with (home / "runs" / "run" / "history.csv").open() as file:
        return [{k: v for k, v in row.items() if k not in timed} for row in csv.DictReader(file)]


@contextmanager
def started(*command: object) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tlserve", *map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def wait_for(condition: Any, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def nothing_is_half_written(home: Path) -> None:
    """Whatever has a name that is read is whole."""
    run = home / "runs" / "run"
    for file in run.rglob("*.safetensors"):
        if not any(part.endswith(".tmp") for part in file.relative_to(run).parts):
            with safe_open(file, "pt") as content:
                assert list(content.keys())
    for file in (run / "states").glob("[0-9]*/training.pt"):
        assert torch.load(file, weights_only=True)["position"]
    if (run / "history.csv").exists():
        text = (run / "history.csv").read_text()
        assert text.endswith("\n")
        assert len({line.count(",") for line in text.splitlines()}) == 1
    models = home / "models"
    assert [p for p in models.glob("*") if not p.name.startswith(".")] == []


class Logged:
    """Starts commands that may be killed; what they print, to either stream, is in a file."""

    def __init__(self, log: Path) -> None:
        self.log = log

    def start(self, *command: object) -> int:
        self.log.write_text("")
        return forker().start(*command, output=self.log, errors=self.log)

    def ended(self) -> int:
        return forker().ended()

    def run(self, *command: object) -> str:
        self.start(*command)
        assert self.ended() == 0, self.log.read_text()
        return self.log.read_text()


@pytest.fixture
def logged(tmp_path: Path) -> Logged:
    return Logged(tmp_path / "output.log")


@pytest.mark.parametrize("kind", RUNS)
def test_a_run_that_is_ended_in_the_middle_goes_on_to_the_same_weights(
    kind: str, data: Path, backbone: Path, tmp_path: Path, logged: Logged
) -> None:
    whole, ended = tmp_path / "whole", tmp_path / "ended"
    logged.run(*arguments(data, backbone, whole, *RUNS[kind]))
    assert not (whole / "runs" / "run" / "states").exists()

    # Killed after the second state that it writes, then resumed and ended by a signal.
    run = ended / "runs" / "run"
    process = logged.start(*arguments(data, backbone, ended, *RUNS[kind]))
    wait_for(lambda: len(list((run / "states").glob("[0-9]*"))) >= 2)
    os.kill(process, signal.SIGKILL)
    assert logged.ended() == -signal.SIGKILL
    nothing_is_half_written(ended)
    position = max(p.name for p in (run / "states").glob("[0-9]*"))
    process = logged.start("finetune", "--resume", run)
    wait_for(lambda: max(p.name for p in (run / "states").glob("[0-9]*")) > position)
    os.kill(process, signal.SIGTERM)
    assert logged.ended() == 130, logged.log.read_text()
    assert f"Go on with tlserve finetune --resume {run}" in logged.log.read_text()
    assert "Resumed in epoch" in logged.log.read_text()
    nothing_is_half_written(ended)
    logged.run("finetune", "--resume", run)
    assert history_of(ended) == history_of(whole)
    assert weights_of(ended) == weights_of(whole)
    first, second = (Bundle.read(h / "models" / "run").manifest for h in (whole, ended))
    assert first.version == second.version
    assert first.training == second.training
    assert (first.selection is None) == (second.selection is None)


KILLS = 10

LONGER = {kind: (*RUNS[kind][:-1], 12) for kind in ("full", "gradual, everything")}
"""As above, with epochs enough to be killed in."""


@pytest.mark.slow
@pytest.mark.parametrize("kind", LONGER)
def test_killed_at_ten_moments_it_ends_with_the_same_weights(
    kind: str, data: Path, backbone: Path, tmp_path: Path, logged: Logged
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    logged.start(*arguments(data, backbone, whole, *LONGER[kind]))
    began = time.monotonic()
    wait_for(lambda: (whole / "runs" / "run" / "states").exists())
    until_training = time.monotonic() - began
    assert logged.ended() == 0, logged.log.read_text()
    training = time.monotonic() - began - until_training

    run = killed / "runs" / "run"
    seed = time.time_ns()  # another each time; said if the test fails
    moments = np.random.default_rng(seed)
    command: tuple[object, ...] = tuple(arguments(data, backbone, killed, *LONGER[kind]))
    interrupted = 0
    for number in range(KILLS):
        process = logged.start(*command)
        if number % 2:
            stop_in_a_write(run, process, moments.uniform(0, 0.002))
        else:
            time.sleep(
                until_training * moments.uniform(0.5, 1) + training * moments.uniform(0, 0.1)
            )
        os.kill(process, signal.SIGKILL)
        assert logged.ended() == -signal.SIGKILL, (seed, logged.log.read_text())
        interrupted += bool(list(run.glob(".*.tmp")))
        if run.exists():
            nothing_is_half_written(killed)
        if (run / "run.json").exists():
            command = ("finetune", "--resume", run)
    logged.start(*command)
    assert logged.ended() == 0, (seed, logged.log.read_text())
    assert interrupted >= KILLS // 2, seed
    assert weights_of(killed) == weights_of(whole), seed
    assert history_of(killed) == history_of(whole), seed
    assert not list(run.glob(".*.tmp"))


def stop_in_a_write(run: Path, process: int, delay: float) -> None:
    """Stop it so long after it began to write a file, or earlier where it is faster than that."""
    before = {path.name for path in run.glob(".*.tmp")}
    deadline = time.monotonic() + 120
    while True:
        # Without a pause, in which the write could be over.
        while not {path.name for path in run.glob(".*.tmp")} - before:
            assert time.monotonic() < deadline
        time.sleep(delay)
        os.kill(process, signal.SIGSTOP)
        wait_for(lambda: Path(f"/proc/{process}/stat").read_text().rpartition(")")[2][1] == "T")
        if {path.name for path in run.glob(".*.tmp")} - before:
            return
        os.kill(process, signal.SIGCONT)
        delay /= 2


def test_two_processes_cannot_write_one_run(data: Path, backbone: Path, tmp_path: Path) -> None:
    command = arguments(data, backbone, tmp_path, "--strategy", "full", "--epochs", 100_000)
    run = tmp_path / "runs" / "run"
    with started(*command) as process:
        wait_for(lambda: (run / "states").exists())
        for other in (command, [*command, "--overwrite"], ["finetune", "--resume", str(run)]):
            message = fails(2, *other)
            assert f"is alive: process {process.pid} writes it" in message
        assert process.poll() is None
        os.kill(process.pid, signal.SIGKILL)
    message = fails(2, *command)
    assert "is not finished" in message
    assert f"--resume {run}" in message


def test_what_cannot_be_resumed_says_why(data: Path, backbone: Path, tmp_path: Path) -> None:
    """Nothing there, finished, other options, other images, damaged states."""
    run = tmp_path / "runs" / "run"
    message = fails(2, "finetune", "--resume", tmp_path)
    assert "is no folder of a run" in message
    message = fails(2, "finetune")
    assert "DATA is missing" in message

    copy = tmp_path / "data"
    shutil.copytree(data, copy)
    command = arguments(copy, backbone, tmp_path, "--strategy", "full", "--epochs", 100_000)
    with started(*command) as process:
        wait_for(lambda: len(list((run / "states").glob("[0-9]*"))) == 2)
        os.kill(process.pid, signal.SIGINT)
        process.wait(60)
    message = fails(2, "finetune", "--resume", run, "--lr", "0.1")
    assert "--lr would change it" in message
    image = next((copy / "train" / "red").iterdir())
    content = image.read_bytes()
    image.write_bytes(next((copy / "train" / "blue").iterdir()).read_bytes())
    message = fails(2, "finetune", "--resume", run)
    assert "The data are no longer what" in message
    image.write_bytes(content)
    states = sorted((run / "states").iterdir())
    damaged = states[-1] / "training.pt"
    damaged.write_bytes(damaged.read_bytes()[:1000])
    before = states[0].name
    result = tlserve("finetune", "--resume", run, "--time-limit", "1s")
    assert result.returncode == 0, result.stderr
    number, batches = (int(part) for part in before.split("-"))
    assert f"Resumed in epoch {number}, after {batches} of its batches." in result.stdout
    assert "--time-limit 1s is over" in result.stdout
    message = fails(2, "finetune", "--resume", run)
    assert "is finished: its bundle is" in message


def contents_of(run: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in run.rglob("*") if p.is_file() and p.name != ".lock"}


def test_an_unfinished_run_is_replaced_only_when_asked(
    data: Path, backbone: Path, tmp_path: Path
) -> None:
    run = tmp_path / "runs" / "run"
    command = arguments(data, backbone, tmp_path, "--strategy", "full", "--epochs", 100_000)
    with started(*command) as process:
        wait_for(lambda: (run / "states").exists())
        os.kill(process.pid, signal.SIGTERM)
        process.wait(60)
    before = contents_of(run)
    assert "is not finished" in fails(2, *command)
    assert contents_of(run) == before
    fresh = arguments(data, backbone, tmp_path, "--epochs", 1, "--overwrite")
    result = tlserve(*fresh)
    assert result.returncode == 0, result.stderr
    assert len(history_of(tmp_path)) == 1
    assert not (run / "states").exists()
