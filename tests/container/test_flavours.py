"""Which backend an image gets, and which files for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bundles import write_plain
from tests.processor import needs_bfloat16
from tlserve.bundle import Bundle
from tlserve.bundle.manifest import Serving
from tlserve.container.flavours import FLAVOURS, choose
from tlserve.errors import BundleFileError, UsageError
from tlserve.runtime.backend import BACKENDS


def _chosen(bundle: Bundle, backend: str, device: str) -> Bundle:
    serving = Serving(backend=backend, device=device, threads=2, max_batch=8, reason="measured")
    manifest = bundle.manifest.model_copy(update={"serving": serving})
    return Bundle(bundle.path, manifest, bundle.manifest_sha256)


@pytest.fixture(scope="module")
def bundle(exported: Path) -> Bundle:
    return Bundle.read(exported)


def test_every_backend_has_a_flavour() -> None:
    assert {b for flavour in FLAVOURS.values() for b in flavour.backends} == BACKENDS.keys()


def test_without_a_choice_of_the_export_it_is_the_flavour_s_first(bundle: Bundle) -> None:
    found = {name: choose(bundle, name).backend for name in FLAVOURS if name != "openvino"}
    assert found == {"cpu": "onnx", "gpu": "onnx", "torch": "torchscript"}


@needs_bfloat16
def test_an_image_for_openvino_has_the_graph_and_its_weights(bundle: Bundle) -> None:
    choice = choose(bundle, "openvino")
    assert choice.backend == "openvino-bf16"
    assert {"openvino-bf16", "openvino-bf16-data"} <= choice.kinds
    assert "onnx" not in choice.kinds


def test_what_the_export_chose_is_left_to_the_bundle(bundle: Bundle) -> None:
    choice = choose(_chosen(bundle, "onnx-int8", "cpu"), "cpu")
    assert choice.backend == "onnx-int8"
    assert "onnx-int8" in choice.kinds
    assert "onnx" not in choice.kinds
    # Its threads and batches hold only where nothing else is asked for.
    assert choice.environment == {}


def test_what_was_chosen_for_another_device_is_not(bundle: Bundle) -> None:
    choice = choose(_chosen(bundle, "onnx-int8", "cpu"), "gpu")
    assert choice.backend == "onnx"
    assert choice.environment == {"TLSERVE_BACKEND": "onnx", "TLSERVE_DEVICE": "cuda"}


def test_what_is_asked_for_is_what_it_runs(bundle: Bundle) -> None:
    choice = choose(bundle, "torch", "eager")
    assert choice.backend == "eager"
    assert "weights" in choice.kinds


def test_a_bundle_without_exports_has_its_weights_for_torch(tmp_path: Path) -> None:
    plain = write_plain(tmp_path / "plain")
    assert choose(plain, "torch").backend == "eager"
    with pytest.raises(BundleFileError, match="has no file of kind 'onnx'") as error:
        choose(plain, "cpu")
    assert "tlserve export" in error.value.hint


def test_what_cannot_be_run_is_refused(bundle: Bundle) -> None:
    with pytest.raises(UsageError, match="flavour 'cpu' cannot run the backend 'eager'"):
        choose(bundle, "cpu", "eager")
    with pytest.raises(UsageError, match="Unknown flavour 'tpu'") as error:
        choose(bundle, "tpu")
    assert error.value.hint == "Known: cpu, gpu, openvino, torch."
