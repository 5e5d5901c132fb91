"""``tlserve serve --tune``: measured, shown, and used."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.inference.tune import steps, tune, tuning_images
from service.settings import Settings
from tests.service import bundle as bundles
from tests.service.server import failing, running
from tlserve.bundle import Bundle
from tlserve.errors import BundleFileError


def test_every_way_is_measured_and_the_best_comes_first(bundle: Bundle) -> None:
    images, what = tuning_images(bundle)
    assert what.startswith(f"{len(images)} golden images")
    settings = Settings(bundle=bundle.path, threads=1)
    counted = []
    found = tune(settings, images, rounds=1, seconds=0.2, advance=lambda: counted.append(1))
    assert sorted((t.threads, t.max_batch) for t in found) == [(1, 1), (1, 4), (1, 16)]
    assert len(counted) == steps(settings, rounds=1) == 3
    best = max(t.images_per_second for t in found)
    assert found[0].images_per_second >= 0.97 * best > 0


def test_what_cannot_be_run_is_an_error_of_ours(bundle: Bundle, tmp_path: Path) -> None:
    bundles.write_without_onnx(bundle, tmp_path / "plain")
    settings = Settings(bundle=tmp_path / "plain", threads=1, max_batch=1)
    with pytest.raises(BundleFileError, match="onnx") as caught:
        tune(settings, [], rounds=1, seconds=0.1)
    assert caught.value.hint, "the hint comes through from the other process"


def test_a_tuned_service_answers(bundle: Bundle, tmp_path: Path) -> None:
    for seed in range(3):
        (tmp_path / f"{seed}.jpg").write_bytes(bundles.image(seed))
    asked = ("--threads", "1", "--max-batch", "2", "--tune-images", str(tmp_path))
    with running(bundle.path, *asked) as server, server.client() as client:
        assert client.post("/predict", content=bundles.image(0)).status_code == 200
        log = "".join(server.log)
    assert "from files to answers" in log
    assert "Serving with --threads 1 --max-batch 2." in log


def test_images_that_are_not_there_are_an_error(bundle: Bundle, tmp_path: Path) -> None:
    ended = failing(bundle.path, "--tune-images", tmp_path)
    assert ended.returncode == 2
    assert "there are no images in it" in ended.stderr
    ended = failing(bundle.path, "--tune-images", tmp_path / "absent")
    assert "there is no such folder" in ended.stderr
