"""What ``tlserve finetune`` tells while it runs: on a terminal, as JSON lines, and not at all."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.cli.terminal import on_a_terminal
from tests.commands import fails, tlserve
from tests.event_files import event_files, scalars
from tests.folders import write_flat
from tlserve.bundle import Bundle
from tlserve.bundle.manifest import Epoch
from tlserve.cli.reporting import ConsoleReport


def _options(home: Path, epochs: int) -> list[object]:
    return [
        *("--weights", "none", "--strategy", "full", "--image-size", 32, "--epochs", epochs),
        *("--workers", 0, "--batch-size", 4, "--name", "run"),
        *("--output", home / "models", "--runs", home / "runs"),
    ]


def _events(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


def test_json_tells_each_event_on_a_line_and_nothing_else(tmp_path: Path, repository: Path) -> None:
    data = write_flat(tmp_path / "flat", 6)
    (data / "red" / "001.jpg").write_bytes(b"broken")
    result = tlserve("finetune", data, *_options(tmp_path, 2), "--json")
    assert result.returncode == 0, result.stderr
    assert not result.stderr
    told = _events(result.stdout)
    assert [event["event"] for event in told] == [
        *("begin", "problems", "message", "settings", "message", "begin"),
        *("begin", "begin", "epoch", "begin", "begin", "epoch"),
        "bundle",
    ]
    documented = (repository / "docs" / "finetune-output.md").read_text("utf-8")
    for event in told:
        (row,) = re.findall(rf"^\| `{event['event']}` \|.*$", documented, re.MULTILINE)
        for field in event:
            assert field == "event" or f"`{field}`" in row
    checking, problems, message, settings, decoded, decoding, epoch, validation = told[:8]
    assert checking == {"event": "begin", "task": "checking images", "images": 18}
    (problem,) = problems["problems"]
    assert problem["path"] == "red/001.jpg"
    assert "b'broken'" in problem["reason"]
    assert message["text"].startswith("14 images train and 3 validate 3 classes")
    assert settings["settings"]["optimizer"] == "adamw"
    assert decoded["text"].startswith("Images are decoded once: 17 images")
    assert decoding == {"event": "begin", "task": "decoding images", "images": 17}
    assert epoch == {"event": "begin", "task": "epoch", "images": 14, "epoch": 1, "epochs": 2}
    assert validation == {"event": "begin", "task": "validation", "images": 3}

    run = tmp_path / "runs" / "run"
    with (run / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    epochs = [event for event in told if event["event"] == "epoch"]
    for row, event in zip(rows, epochs, strict=True):
        assert set(event) == {"event", "epochs", "best", *row}
        assert {k: float(v) for k, v in row.items()} == {k: event[k] for k in row}
    (log,) = event_files(run / "tensorboard")
    assert scalars(log)["val/loss"] == pytest.approx(
        {event["epoch"]: event["val_loss"] for event in epochs}
    )

    bundle = Bundle.read(tmp_path / "models" / "run")
    metrics = bundle.manifest.metrics
    assert told[-1] == {
        "event": "bundle",
        "path": str(bundle.path),
        "name": "run",
        "version": bundle.manifest.version,
        "accuracy": metrics.val_accuracy,
        "correct": metrics.val_correct,
        "images": 3,
        "best_epoch": metrics.best_epoch,
    }
    assert [e["epoch"] for e in epochs if e["best"]][-1] == metrics.best_epoch


def test_json_tells_an_error_on_both_outputs(tmp_path: Path) -> None:
    result = tlserve("finetune", tmp_path / "nowhere", "--json")
    assert result.returncode == 1
    (told,) = _events(result.stdout)
    assert told["event"] == "error"
    assert f"There is no folder {tmp_path / 'nowhere'}" in told["message"]
    hint = f"hint: {told['hint']}\n" if told["hint"] else ""
    assert result.stderr == f"error: {told['message']}\n{hint}"
    # An option that is wrong is found out before there is anything to run.
    result = tlserve("finetune", tmp_path, "--json", "--epochs", 0)
    assert result.returncode == 2
    assert _events(result.stdout)[0]["message"] == "--epochs 0: it must be at least 1."


def test_json_tells_an_interruption_and_what_is_kept(tmp_path: Path) -> None:
    data = write_flat(tmp_path / "flat", 6)
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "tlserve", "finetune", str(data), "--json"),
            *map(str, _options(tmp_path, 10_000)),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        # Each line comes when it is true, not when a buffer is full.
        while json.loads(process.stdout.readline())["event"] != "epoch":
            pass
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130, errors
    told = _events(output)[-1]
    assert told["event"] == "error"
    assert errors == f"error: {told['message']}\nhint: {told['hint']}\n"
    assert told["hint"] == f"Go on with tlserve finetune --resume {tmp_path / 'runs' / 'run'}"


def test_quiet_prints_nothing_but_errors(colours: Path, tmp_path: Path) -> None:
    result = tlserve("finetune", colours, *_options(tmp_path, 1), "--quiet", "--no-tensorboard")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert Bundle.read(tmp_path / "models" / "run")
    assert not (tmp_path / "runs" / "run" / "tensorboard").exists()
    again = tlserve("finetune", colours, *_options(tmp_path, 1), "--quiet")
    assert (again.returncode, again.stdout) == (1, "")
    assert "exists already" in again.stderr


def test_quiet_and_json_exclude_each_other() -> None:
    message = fails(2, "finetune", ".", "--quiet", "--json")
    assert message == "error: --quiet and --json exclude each other.\nhint: Pass one of them.\n"


def test_a_settings_file_cannot_say_what_is_told(tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text("quiet = true\n")
    message = fails(2, "finetune", ".", "--config", tmp_path / "settings.toml")
    assert "there is no setting 'quiet'" in message


def test_a_terminal_shows_speed_time_loss_and_the_best_accuracy(tmp_path: Path) -> None:
    data = write_flat(tmp_path / "flat", 12)
    code, lines = on_a_terminal("-m", "tlserve", "finetune", data, *_options(tmp_path, 2))
    assert code == 0, lines
    assert max(len(line) for line in lines if "━" in line or line.startswith("run ")) <= 80
    frame = r"epoch {}/2 ━[━╸╺]* +\d+/30 [\d.]+ images/s \d:\d\d:\d\d loss \d\.\d{{4}}"
    for number in (1, 2):
        assert any(re.fullmatch(frame.format(number), line) for line in lines), lines
    # The estimate comes in the first epoch, the best accuracy after it.
    assert any(re.fullmatch(r"run \d:\d\d:\d\d left of 2 epochs", line) for line in lines)
    best = r"run \d:\d\d:\d\d left of 2 epochs, best val accuracy [\d.]+% in epoch 1"
    assert any(re.fullmatch(best, line) for line in lines), lines
    assert any(line.startswith("validation ━") for line in lines)
    assert lines[-2].startswith("Next: tlserve export ")


LOOKS = """
import time
from tlserve.cli.reporting import ConsoleReport

class Loss:
    looks = 0

    def __float__(self):
        Loss.looks += 1
        return 8.0

report = ConsoleReport()
report.begin_epoch(1, 2, 100)
began = time.monotonic()
while time.monotonic() - began < 1.5:
    report.advance(1)
    report.training_loss(Loss())
    time.sleep(0.05)
report.end()
print(f"looks: {Loss.looks}")
"""


def test_the_loss_is_looked_at_once_a_second() -> None:
    code, lines = on_a_terminal("-c", LOOKS)
    assert code == 0, lines
    assert "looks: 2" in lines
    assert any(line.endswith("loss 8.0000") for line in lines)


def test_where_there_is_no_terminal_nobody_waits_for_the_loss(
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Loss:
        def __float__(self) -> float:
            raise AssertionError("the device was waited for")

    report = ConsoleReport()
    report.begin_epoch(1, 1, 10)
    report.advance(10)
    report.training_loss(Loss())
    report.end()
    epoch = Epoch(epoch=1, train_loss=1, val_loss=1, val_accuracy=1, lr=1, seconds=1)
    report.epoch(epoch, 1, best=True)
    assert capsys.readouterr().out.count("\n") == 1
