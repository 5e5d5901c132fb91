"""The command line as a user meets it: real processes, their output and their exit codes."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.commands import ESCAPE, fails, tlserve
from tests.folders import write_flat
from tests.processor import here


def test_help_names_the_commands() -> None:
    result = tlserve("--help")
    assert result.returncode == 0
    for command in ("finetune", "export", "verify", "bench", "serve", "predict", "inspect"):
        assert command in result.stdout


def test_help_and_version_import_nothing_heavy() -> None:
    code = (
        "import sys, tlserve.cli.main as m\n"
        "heavy = {'torch', 'numpy', 'bentoml', 'pydantic', 'onnxruntime', 'PIL'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def test_predict_as_json_goes_on_after_a_bad_file(exported: Path, colours: Path) -> None:
    good = colours / "val" / "red" / "100.png"
    result = tlserve("predict", exported, good, exported / "bundle.json", "nowhere.jpg", "--json")
    assert result.returncode == 1
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [set(line) for line in lines] == [
        {"file", "predictions"},
        {"file", "error"},
        {"file", "error"},
    ]
    predictions = lines[0]["predictions"]
    assert lines[0]["file"] == str(good)
    assert len(predictions) == 3
    assert sum(p["probability"] for p in predictions) == pytest.approx(1)
    assert predictions == sorted(predictions, key=lambda p: -p["probability"])


def test_predict_on_a_folder_as_csv_and_as_a_table(exported: Path, colours: Path) -> None:
    result = tlserve("predict", exported, colours / "val", "--csv", "--top-k", "1")
    assert result.returncode == 0, result.stderr
    rows = list(csv.DictReader(result.stdout.splitlines()))
    assert [row["file"] for row in rows] == sorted(str(p) for p in (colours / "val").glob("*/*"))
    table = tlserve("predict", exported, colours / "val" / "red")
    assert table.returncode == 0
    assert "100.png" in table.stdout
    assert ESCAPE not in table.stdout


def test_the_backends_agree_on_the_command_line(exported: Path, colours: Path) -> None:
    outputs = []
    for backend in ("onnx", "torchscript", "pt2", "eager"):
        result = tlserve("predict", exported, colours / "val", "--json", "--backend", backend)
        assert result.returncode == 0, result.stderr
        assert not result.stderr
        outputs.append([json.loads(line) for line in result.stdout.splitlines()])
    for lines in zip(*outputs, strict=True):
        first, *others = [[(p["label"], p["probability"]) for p in x["predictions"]] for x in lines]
        for other in others:
            assert [label for label, _ in other] == [label for label, _ in first]
            assert [p for _, p in other] == pytest.approx([p for _, p in first], abs=1e-5)


def test_inspect_shows_a_bundle_and_an_architecture(exported: Path) -> None:
    shown = tlserve("inspect", exported).stdout
    for text in (
        "colours",
        "fc.weight",
        "11,178,051 in all, 11,178,051 trained",
        "model.onnx",
        "pass, max |Δlogit|",
    ):
        assert text in shown
    content = json.loads(tlserve("inspect", exported, "--json").stdout)
    assert content["classes"] == ["blue", "green", "red"]
    architecture = tlserve("inspect", "vgg16").stdout
    for text in ("classifier.6.weight", "138,357,544", "4,097,000", "256 px (short", "features.24"):
        assert text in architecture
    content = json.loads(tlserve("inspect", "resnet50", "--json").stdout)
    assert content["head"] == ["fc.weight", "fc.bias"]
    blocks = {block["block"]: block for block in content["blocks"]}
    assert list(blocks) == ["stem", "layer1", "layer2", "layer3", "layer4", "head"]
    assert sum(block["parameters"] for block in blocks.values()) == content["parameters"]
    strategies = blocks["layer4"]["strategies"]
    assert strategies["feature-extraction"]["from_epoch"] == 0
    assert strategies["discriminative"] == {"lr": 1e-4, "from_epoch": 1}
    assert strategies["gradual"]["from_epoch"] > 1


def test_inspect_shows_an_architecture_of_timm() -> None:
    content = json.loads(tlserve("inspect", "timm/resnet10t", "--json").stdout)
    assert [b["block"] for b in content["blocks"]] == [
        *("stem", "layer1", "layer2", "layer3", "layer4", "head")
    ]
    assert "Did you mean timm/resnet10t" in fails(2, "inspect", "timm/resnet10tt")


def test_inspect_without_a_name_lists_the_architectures() -> None:
    listed = tlserve("inspect").stdout
    assert "The 80 architectures of torchvision" in listed
    assert {"alexnet", "regnet_y_128gf", "wide_resnet50_2"} <= set(listed.split())
    assert len(json.loads(tlserve("inspect", "--json").stdout)) >= 80


def test_verify_passes_a_whole_bundle_and_names_what_is_wrong(
    exported: Path, tmp_path: Path
) -> None:
    report = json.loads(tlserve("verify", exported, "--json").stdout)
    assert report["passed"] is True
    levels = {r["format"]: {x["name"]: x["passed"] for x in r["levels"]} for r in report["results"]}
    assert levels.pop("eager") == {"bytes": True}
    judged = {"description", "numbers", "batches", "bytes", "decisions"}
    assert set(levels) == {
        *here("onnx", "onnx-fp16", "onnx-int8", "openvino-bf16", "torchscript", "pt2")
    }
    for found in levels.values():
        assert found == {"threads": None} | dict.fromkeys(judged, True)
    broken = tmp_path / "broken"
    shutil.copytree(exported, broken)
    with (broken / "model.onnx").open("r+b") as file:
        file.seek(5000)
        file.write(b"\x01\x02\x03")
    assert "model.onnx" in fails(1, "verify", broken)
    assert "SHA-256" in fails(1, "predict", broken, broken / "golden")


@pytest.mark.parametrize(
    ("code", "arguments", "message"),
    [
        (2, ["inspect", "resnet5"], "Did you mean resnet50"),
        (1, ["inspect", "no/bundle"], "no bundle at no/bundle"),
        (1, ["export", "nowhere", "--onnx"], "no model bundle at nowhere"),
        (2, ["export", "nowhere"], "--onnx, --openvino, --torchscript, --pt2, or --auto"),
        (2, ["export", "nowhere", "--precision", "int8"], "Pass --onnx --precision int8"),
        (2, ["export", "nowhere", "--auto", "--pt2"], "--auto writes every format"),
        (2, ["export", "nowhere", "--onnx", "--p99-ms", "5"], "Pass --auto"),
        (2, ["export", "nowhere", "--auto", "--p99-ms", "0"], "--p99-ms 0: it must be more than 0"),
        (2, ["export", "nowhere", "--auto", "--without-validation"], "judged by: accuracy"),
        (1, ["bench", "nowhere"], "no model bundle at nowhere"),
        (2, ["bench", "nowhere", "--batch", "1,many"], "--batch 1,many: it must be numbers"),
        (2, ["bench", "nowhere", "--plot", "no/x.png"], "there is no folder no."),
        (2, ["bench", "nowhere", "--batch", "0"], "--batch 0: it must be numbers from 1"),
        (1, ["verify", "nowhere"], "no model bundle"),
        (1, ["predict", "nowhere", "x.jpg"], "no model bundle"),
        (1, ["serve", "nowhere"], "no model bundle"),
        (1, ["finetune", "nowhere"], "There is no folder nowhere"),
        (2, ["finetune", ".", "--arch", "resnet-18x"], "Did you mean resnet18"),
        (2, ["finetune", ".", "--lr", "fast"], "--lr fast: "),
        (2, ["finetune", ".", "--epochs", "0"], "--epochs 0: it must be at least 1"),
        (2, ["finetune", ".", "--config", "x.toml"], "x.toml cannot be read"),
        (2, ["finetune", ".", "--unfreeze", "2"], "--unfreeze is for --strategy partial"),
        (2, ["finetune", ".", "--image-size", "40", "--arch", "alexnet"], "does not take images"),
    ],
)
def test_a_mistake_gets_a_message(code: int, arguments: list[str], message: str) -> None:
    assert message in fails(code, *arguments)


def test_a_bundle_that_was_not_exported_says_how(trained: Path, colours: Path) -> None:
    image = colours / "val" / "red" / "100.png"
    message = fails(1, "predict", trained, image)
    assert f"tlserve export {trained} --onnx" in message


def test_weights_that_cannot_be_downloaded_say_what_to_do(
    colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    message = fails(1, "finetune", colours, "--output", tmp_path / "models")
    assert "cannot be downloaded" in message
    assert "--weights none" in message
    assert not (tmp_path / "models").exists()


def test_finetune_in_a_pipe_prints_a_line_an_epoch(tmp_path: Path) -> None:
    data = write_flat(tmp_path / "flat", 6)
    (data / "red" / "001.jpg").write_bytes(b"broken")
    result = tlserve(
        *("finetune", data, "--weights", "none", "--image-size", 32, "--epochs", 2),
        *("--name", "flat", "--output", tmp_path / "models", "--runs", tmp_path / "runs"),
    )
    assert result.returncode == 0, result.stderr
    assert "Left out 1 of the files:\n  red/001.jpg: " in result.stdout
    assert result.stdout.count("epoch ") >= 2
    assert "2/2" in result.stdout
    assert ESCAPE not in result.stdout
    assert f"Bundle: {tmp_path / 'models' / 'flat'}" in result.stdout
    again = fails(
        *(1, "finetune", data, "--weights", "none", "--name", "flat"),
        *("--output", tmp_path / "models"),
    )
    assert "exists already" in again
    assert "--overwrite" in again


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_no_half_bundle(tmp_path: Path, number: signal.Signals) -> None:
    data = write_flat(tmp_path / "flat", 6)
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "tlserve", "finetune", str(data), "--weights", "none"),
            *("--image-size", "32", "--epochs", "10000", "--patience", "10000", "--name", "flat"),
            *("--output", str(tmp_path / "models"), "--runs", str(tmp_path / "runs")),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    best = tmp_path / "runs" / "flat" / "best.safetensors"
    deadline = time.monotonic() + 120
    try:
        while not best.exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert best.exists()
        if number == signal.SIGINT:
            # As a terminal does for Ctrl-C: to the processes that load images too.
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert errors.startswith("error: Interrupted: nothing half-written was left behind.\nhint: ")
    assert f"Go on with tlserve finetune --resume {best.parent}" in errors
    models = tmp_path / "models"
    assert not models.exists() or not list(models.iterdir())


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_is_named_and_leaves_the_bundle(exported: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    size = sum(p.stat().st_size for p in exported.rglob("*") if p.is_file())
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size + 2**20}", "tmpfs", disk],  # noqa: S607
        check=False,
        capture_output=True,
    )
    if mounted.returncode != 0:
        pytest.skip("this machine does not let us mount a small disk")
    try:
        bundle = disk / "colours"
        shutil.copytree(exported, bundle)
        before = (bundle / "bundle.json").read_bytes()
        message = fails(1, "export", bundle, "--onnx", "--torchscript")
        assert "No space left on device" in message
        assert (bundle / "bundle.json").read_bytes() == before
        assert [p.name for p in disk.iterdir()] == ["colours"]
        assert tlserve("verify", bundle).returncode == 0
    finally:
        subprocess.run(["umount", disk], check=True)  # noqa: S607
