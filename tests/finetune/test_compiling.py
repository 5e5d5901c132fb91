"""Compiling what is trained."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.commands import tlserve_anew
from tlserve.bundle import Bundle

# What is frozen is computed once, so that little is compiled; without dropout, whose random numbers
# a compiler draws in another order.
_OPTIONS = (
    *("--arch", "resnet18", "--weights", "none", "--strategy", "partial", "--unfreeze", 2),
    *("--epochs", 2, "--views", 1, "--batch-size", 10, "--image-size", 32, "--workers", 0),
)


def _options(home: Path, name: str) -> tuple[object, ...]:
    return ("--name", name, "--output", home / "models", "--runs", home / "runs", *_OPTIONS)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch compiles with g++ on a CPU")
def test_a_compiled_network_learns_the_same(colours: Path, tmp_path: Path) -> None:
    metrics = {}
    for name, options in (("eager", ()), ("compiled", ("--compile",))):
        done = tlserve_anew("finetune", colours, *_options(tmp_path, name), *options)
        assert done.returncode == 0, done.stderr
        manifest = Bundle.read(tmp_path / "models" / name).manifest
        assert manifest.training["compile"] is (name == "compiled")
        metrics[name] = manifest.metrics
    for expected, found in zip(metrics["eager"].history, metrics["compiled"].history, strict=True):
        assert found.train_loss == pytest.approx(expected.train_loss, rel=1e-3)
        assert found.val_loss == pytest.approx(expected.val_loss, rel=1e-3)


def test_what_cannot_be_compiled_is_an_error(
    colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "no-compiler"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    done = tlserve_anew("finetune", colours, *_options(tmp_path, "x"), "--compile")
    assert done.returncode == 1
    assert "--compile: the network could not be compiled" in done.stderr
    assert "Leave --compile away." in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "models").iterdir())
