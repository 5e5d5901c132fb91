"""Several processes train as one does: on one machine, on two, and when one of them is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
import torch

from tests.commands import tlserve
from tests.finetune.test_resume import history_of, nothing_is_half_written, wait_for
from tests.folders import mislabel, write_parts
from tests.networks import stand_in
from tlserve.bundle import Bundle
from tlserve.data.folder import scan
from tlserve.data.loading import ImageDataset, ViewBatches, loader
from tlserve.finetune.evaluate import evaluate
from tlserve.finetune.events import Events
from tlserve.runtime.eager import rebuild

# Without dropout, which draws from each process's own numbers, and with frozen statistics, which
# see the images of one process only, two processes compute what one does.
SETTINGS = ("--arch", "resnet18", "--image-size", 32, "--batch-size", 6, "--workers", 0)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """37 images to train in 6 batches, the last of which is not full, and 15 to validate."""
    data = write_parts(tmp_path_factory.mktemp("data") / "data", train=12, val=5)
    mislabel(data, "red", as_name="blue")
    picture = data / "train" / "red" / "000.png"
    (data / "train" / "red" / "more.png").write_bytes(picture.read_bytes() + b" ")
    return data


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "backbone.pth"
    torch.save(stand_in("resnet18", 10, 32).state_dict(), path)
    return path


SMALL = ("--arch", "mobilenet_v3_small", "--weights", "none", "--strategy", "full")
"""Quickly saved."""


def arguments(data: Path, backbone: Path, home: Path, *options: object) -> list[str]:
    command = [
        *("finetune", data, "--name", "run", "--weights", backbone, *SETTINGS),
        *("--output", home / "models", "--runs", home / "runs", *options),
    ]
    return [str(part) for part in command]


def torchrun(*options: object) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", *map(str, options), "-m", "tlserve"]


@contextmanager
def running(command: list[str], **changes: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **changes},
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with suppress(psutil.NoSuchProcess):
            for child in psutil.Process(process.pid).children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    child.kill()
        process.kill()
        process.communicate()


def two(*command: str) -> tuple[str, str]:
    """Run a command in two processes, and give what they print."""
    with running([*torchrun("--standalone", "--nproc-per-node=2"), *command]) as process:
        output, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    return output, errors


@pytest.mark.parametrize("cache", ["auto", "off"])
def test_two_processes_do_what_one_does(
    data: Path, backbone: Path, tmp_path: Path, cache: str
) -> None:
    options = ("--epochs", 4, "--cache", cache, "--optimizer", "sgd", "--lr", 0.01)
    done = tlserve(*arguments(data, backbone, tmp_path / "one", *options))
    assert done.returncode == 0, done.stderr
    output, _ = two(*arguments(data, backbone, tmp_path / "two", *options))
    assert output.count("37 images train and 15 validate 3 classes, on cpu, in 2 processes.") == 1
    first, second = history_of(tmp_path / "one"), history_of(tmp_path / "two")
    assert len(first) == len(second) == 4
    for one, other in zip(first, second, strict=True):
        assert one["val_accuracy"] == other["val_accuracy"]
        for loss in ("train_loss", "val_loss"):
            assert float(one[loss]) == pytest.approx(float(other[loss]), rel=1e-4)
    kept = [len(list((tmp_path / n / "runs/.features").glob("*/0.npy"))) for n in ("one", "two")]
    assert kept == ([3, 3] if cache == "auto" else [0, 0])


def test_what_they_validate_is_what_one_process_finds(
    data: Path, backbone: Path, tmp_path: Path
) -> None:
    """Statistics and dropout included: no image is counted twice or left out."""
    two(*arguments(data, backbone, tmp_path, "--strategy", "full", "--epochs", 2, "--ema", 0.9))
    bundle = Bundle.read(tmp_path / "models" / "run")
    spec = bundle.manifest.preprocessing
    samples = scan(data).val
    assert samples is not None
    images = ImageDataset(data, samples, spec)
    batches = loader(images, ViewBatches(len(samples), 24, seed=0, shuffle=False), 0)
    found = evaluate(rebuild(bundle), batches, torch.device("cpu"), Events())
    metrics = bundle.manifest.metrics
    assert (
        (found.correct, found.images)
        == (metrics.val_correct, metrics.val_images)
        == (
            metrics.val_correct,
            15,
        )
    )
    # Sums in another order, for each process has images of its own.
    assert found.loss == pytest.approx(metrics.val_loss, rel=1e-6)


def trainers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes that torchrun started, by their ranks."""
    children = [
        child
        for child in psutil.Process(process.pid).children()
        if "finetune" in child.cmdline() or "tlserve" in child.cmdline()
    ]
    return sorted(children, key=lambda child: int(child.environ()["RANK"]))


@pytest.mark.parametrize("rank", [0, 1])
def test_when_one_is_lost_all_are_started_again_and_go_on(
    data: Path, backbone: Path, tmp_path: Path, rank: int
) -> None:
    states = tmp_path / "runs" / "run" / "states"
    command = arguments(data, backbone, tmp_path, *SMALL, "--epochs", 12, "--save-every", 0)
    with running(
        [*torchrun("--standalone", "--nproc-per-node=2", "--max-restarts=1"), *command]
    ) as process:
        wait_for(lambda: len(list(states.glob("*-*"))) == 2)
        nothing_is_half_written(tmp_path)
        lost = trainers(process)[rank]
        lost.kill()
        output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert "Resumed in epoch" in output
    assert len(history_of(tmp_path)) == 12
    assert Bundle.read(tmp_path / "models" / "run").manifest.metrics.val_images == 15


def test_a_signal_stops_them_at_the_same_step_and_one_goes_on(
    data: Path, backbone: Path, tmp_path: Path
) -> None:
    run = tmp_path / "runs" / "run"
    command = arguments(data, backbone, tmp_path, *SMALL, "--epochs", 100_000)
    with running([*torchrun("--standalone", "--nproc-per-node=2"), *command]) as process:
        wait_for(lambda: (run / "states").exists())
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=120)
    assert f"Go on with tlserve finetune --resume {run}" in errors
    nothing_is_half_written(tmp_path)
    resumed = tlserve("finetune", "--resume", run, "--time-limit", "1s")
    assert resumed.returncode == 0, resumed.stderr
    assert "Resumed in epoch" in resumed.stdout


def test_a_batch_for_each_process_is_asked_for(data: Path, backbone: Path, tmp_path: Path) -> None:
    command = arguments(data, backbone, tmp_path, "--batch-size", 3)
    with running([*torchrun("--standalone", "--nproc-per-node=2"), *command]) as process:
        _, errors = process.communicate(timeout=240)
    assert process.returncode != 0
    assert "--batch-size 3 gives some of 2 processes fewer than 2 images" in errors


@contextmanager
def hosts() -> Iterator[tuple[str, str]]:
    """Two network namespaces with a cable between them; the first has the address 10.77.0.1."""
    names = (f"tl{os.getpid()}a", f"tl{os.getpid()}b")

    def ip(*arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True, capture_output=True)  # noqa: S607

    try:
        for name in names:
            ip("netns", "add", name)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this machine does not let us make network namespaces")
    try:
        first, second = names
        ip("link", "add", "cable", "netns", first, "type", "veth", "peer", "cable", "netns", second)
        for number, name in enumerate(names, start=1):
            ip("-n", name, "address", "add", f"10.77.0.{number}/24", "dev", "cable")
            for device in ("lo", "cable"):
                ip("-n", name, "link", "set", device, "up")
        yield first, second
    finally:
        for name in names:
            ip("netns", "delete", name)


@pytest.mark.slow
def test_two_machines_do_what_one_does(data: Path, backbone: Path, tmp_path: Path) -> None:
    options = ("--epochs", 4, "--optimizer", "sgd", "--lr", 0.01)
    done = tlserve(*arguments(data, backbone, tmp_path / "one", *options))
    assert done.returncode == 0, done.stderr
    with hosts() as names:
        commands = [
            [
                *("ip", "netns", "exec", name),
                *torchrun("--nnodes=2", "--nproc-per-node=1", f"--node-rank={number}"),
                *arguments(data, backbone, tmp_path / "two", *options),
            ]
            for number, name in enumerate(names)
        ]
        for command in commands:
            place = command.index("-m") + 2
            command[place:place] = ["--master-addr=10.77.0.1", "--master-port=29577"]
        with running(commands[0], GLOO_SOCKET_IFNAME="cable") as first:
            time.sleep(1)
            with running(commands[1], GLOO_SOCKET_IFNAME="cable") as second:
                output, errors = first.communicate(timeout=240)
                _, others = second.communicate(timeout=60)
    assert first.returncode == 0, errors
    assert second.returncode == 0, others
    assert "in 2 processes" in output
    for one, other in zip(history_of(tmp_path / "one"), history_of(tmp_path / "two"), strict=True):
        assert one["val_accuracy"] == other["val_accuracy"]
        assert float(one["val_loss"]) == pytest.approx(float(other["val_loss"]), rel=1e-4)
