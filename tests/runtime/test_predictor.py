"""The backends answer alike, and each refuses what it should."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.bundles import SPEC, golden_files
from tests.interpreter import python
from tests.processor import here, needs_bfloat16
from tlserve.bundle import Bundle, stage
from tlserve.bundle.manifest import Calibration, Precision
from tlserve.errors import (
    BundleFileError,
    ChecksumError,
    DeviceError,
    ImageError,
    MissingDependencyError,
    ParityError,
    UsageError,
)
from tlserve.runtime import Prediction, Predictor
from tlserve.runtime.backend import BACKENDS, load_backend
from tlserve.runtime.golden import TOLERANCES, check_golden, compare_golden
from tlserve.runtime.onnx import OnnxBackend
from tlserve.runtime.processors import available_processors
from tlserve.runtime.softmax import softmax

FILES = {
    "onnx": "model.onnx",
    "onnx-fp16": "model.fp16.onnx",
    "onnx-int8": "model.int8.onnx",
    "openvino-bf16": "model.bf16.xml",
    "pt2": "model.pt2",
    "torchscript": "model.torchscript.pt",
    "eager": "weights.safetensors",
}
backends = pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=needs_bfloat16) if name == "openvino-bf16" else name
        for name in BACKENDS
    ],
)


def test_every_backend_is_tested() -> None:
    assert set(FILES) == set(BACKENDS)


def test_the_backends_agree(bundle: Bundle) -> None:
    batch = np.random.default_rng(0).normal(size=(7, 3, *SPEC.crop)).astype(np.float32)
    expected = load_backend(bundle, "eager").logits(batch)
    spread = float(expected.max() - expected.min())
    assert np.abs(expected - expected[0]).max() > 0.01 * spread, (
        "the network must tell inputs apart"
    )
    for name in here(*BACKENDS):
        backend = load_backend(bundle, name)
        assert (backend.name, backend.device) == (name, "cpu")
        if name == "onnx-int8":
            # Noise is not what it was calibrated on; the golden images are compared below.
            continue
        for size in 1, 2, 7:
            found = backend.logits(batch[:size])
            assert found.dtype == np.float32
            assert found.shape == (size, 3)
            tolerance = TOLERANCES[BACKENDS[name].precision]
            assert np.abs(found - expected[:size]).max() <= tolerance * spread


@pytest.mark.parametrize(("threads", "expected"), [(None, [None, "1"]), (2, ["0", None])])
def test_threads_wait_in_a_loop_only_where_nothing_runs_beside_them(
    bundle: Bundle, threads: int | None, expected: list[str | None]
) -> None:
    backend = load_backend(bundle, "onnx", threads=threads)
    assert isinstance(backend, OnnxBackend)
    options = backend.session.get_session_options()
    found = []
    for name in ("session.intra_op.allow_spinning", "session.force_spinning_stop"):
        try:
            found.append(options.get_session_config_entry(name))
        except RuntimeError:  # it was not set
            found.append(None)
    assert found == expected


@backends
def test_from_bytes_to_labels(bundle: Bundle, name: str) -> None:
    predictor = Predictor.load(bundle, name)
    images = list(golden_files().values())
    answers = predictor.predict(images, k=2)
    recorded = np.load(bundle.path / "golden" / "logits.npy")
    assert len(answers) == len(images)
    for answer, logits in zip(answers, recorded, strict=True):
        assert len(answer) == 2
        assert answer[0].label == bundle.manifest.classes[int(np.argmax(logits))]
        assert answer[0].probability >= answer[1].probability
    assert len({answer[0].probability for answer in answers}) == len(images)
    alone = predictor.predict(images[:1], k=2)[0]
    assert [p.label for p in alone] == [p.label for p in answers[0]]
    assert alone[0].probability == pytest.approx(answers[0][0].probability, abs=1e-5)


def test_more_answers_than_classes(bundle: Bundle) -> None:
    predictor = Predictor.load(bundle, "eager")
    image = golden_files()["golden/0-photo.jpg"]
    (five,), (everything,) = predictor.predict([image], k=5), predictor.predict([image])
    assert five == everything
    assert sorted(prediction.label for prediction in five) == ["ant", "bee", "wasp"]
    assert sum(prediction.probability for prediction in five) == pytest.approx(1, abs=1e-12)


def test_no_images_no_answers(bundle: Bundle) -> None:
    assert Predictor.load(bundle, "eager").predict([]) == []


def test_a_bad_image_is_an_image_error(bundle: Bundle) -> None:
    with pytest.raises(ImageError):
        Predictor.load(bundle, "eager").predict([b"no image"])


def test_equally_probable_classes_keep_their_order(bundle: Bundle) -> None:
    predictor = Predictor.load(bundle, "eager")
    assert predictor.top(np.array([0.25, 0.5, 0.25])) == [
        Prediction("bee", 0.5),
        Prediction("ant", 0.25),
        Prediction("wasp", 0.25),
    ]
    assert [p.label for p in predictor.top(np.full(3, 1 / 3), 2)] == ["ant", "bee"]


def test_softmax() -> None:
    logits = np.array([[1000, 999, -1000], [0, 0, 0], [-3e38, 0, 3e38]], dtype=np.float32)
    found = softmax(logits, 1.0)
    assert found.dtype == np.float64
    assert np.abs(found.sum(axis=1) - 1).max() < 1e-15
    e = np.e
    assert found[0] == pytest.approx([e / (1 + e), 1 / (1 + e), 0])
    assert found[1] == pytest.approx([1 / 3] * 3)
    assert found[2] == pytest.approx([0, 0, 1])
    hotter = softmax(np.array([[2.0, 0.0]], dtype=np.float32), 2.0)
    assert hotter[0, 0] == pytest.approx(e / (1 + e))


def test_the_temperature_is_the_bundles(copy: Bundle) -> None:
    batch = np.random.default_rng(0).normal(size=(2, 3, *SPEC.crop)).astype(np.float32)
    plain = Predictor.load(copy, "eager")
    with stage(copy.path, base=copy) as staged:
        warm = staged.commit(staged.manifest(calibration=Calibration(temperature=4.0)))
    expected = softmax(plain.backend.logits(batch), 4.0)
    assert np.array_equal(Predictor.load(warm, "eager").probabilities(batch), expected)
    assert not np.allclose(expected, plain.probabilities(batch))


def test_an_unknown_backend(bundle: Bundle) -> None:
    with pytest.raises(UsageError, match="Unknown backend 'tensorrt'") as caught:
        load_backend(bundle, "tensorrt")
    assert caught.value.hint == (
        "Known: onnx, onnx-fp16, onnx-int8, openvino-bf16, torchscript, pt2, eager."
    )


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("onnx", "--onnx"),
        ("onnx-fp16", "--onnx --precision fp16"),
        ("onnx-int8", "--onnx --precision int8"),
        ("openvino-bf16", "--openvino"),
        ("torchscript", "--torchscript"),
        ("pt2", "--pt2"),
    ],
)
def test_a_backend_without_its_file(copy: Bundle, name: str, option: str) -> None:
    manifest = copy.manifest.model_copy(
        update={"files": {k: v for k, v in copy.manifest.files.items() if k != FILES[name]}}
    )
    (copy.path / "bundle.json").write_text(manifest.model_dump_json())
    with pytest.raises(BundleFileError, match=f"no file of kind '{name}'") as caught:
        load_backend(Bundle.read(copy.path), name)
    assert f"tlserve export {copy.path} {option}" in caught.value.hint


@backends
def test_an_altered_file_is_not_loaded(copy: Bundle, name: str) -> None:
    path = copy.path / FILES[name]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ChecksumError, match=FILES[name]):
        load_backend(copy, name)


@backends
def test_a_file_that_is_whole_but_no_model(copy: Bundle, name: str) -> None:
    with stage(copy.path, base=copy) as staged:
        staged.fresh(FILES[name]).write_bytes(b"this is no model")
        kind: Any = copy.manifest.files[FILES[name]].kind
        staged.add(FILES[name], kind)
        broken = staged.commit(staged.manifest())
    with pytest.raises(BundleFileError, match=FILES[name]):
        load_backend(broken, name)


def test_an_opset_that_the_runtime_does_not_know_is_named(copy: Bundle) -> None:
    proto = onnx.load_model(str(copy.path / "model.onnx"))
    proto.opset_import[0].version = 999
    with stage(copy.path, base=copy) as staged:
        staged.fresh("model.onnx").write_bytes(proto.SerializeToString())
        staged.add("model.onnx", "onnx", details={"opset": 999})
        newer = staged.commit(staged.manifest())
    with pytest.raises(BundleFileError, match=r"does not know the opset 999 that .*model\.onnx"):
        load_backend(newer, "onnx")


def test_weights_that_do_not_fit_are_named(copy: Bundle) -> None:
    with stage(copy.path, base=copy) as staged:
        state = load_file(copy.path / "weights.safetensors")
        del state["classifier.3.bias"]
        save_file(state, staged.fresh("weights.safetensors"))
        staged.add("weights.safetensors", "weights")
        broken = staged.commit(staged.manifest())
    with pytest.raises(
        BundleFileError, match=r"do not fit mobilenet_v3_small.*classifier\.3\.bias"
    ):
        load_backend(broken, "eager")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@backends
def test_cuda_without_a_device_is_an_error(bundle: Bundle, name: str) -> None:
    with pytest.raises(DeviceError) as caught:
        load_backend(bundle, name, "cuda")
    assert "--device cpu" in caught.value.hint


@pytest.mark.skipif(
    "CUDAExecutionProvider" not in onnxruntime.get_available_providers(),
    reason="needs ONNX Runtime's build for GPUs",
)
def test_the_library_is_named_for_want_of_which_cuda_is_not_there(bundle: Bundle) -> None:
    """Where the CUDA wheels are not loaded, and where only the driver is missing."""
    program = """
import sys
from pathlib import Path
from tlserve.bundle import Bundle
from tlserve.errors import DeviceError
from tlserve.runtime import onnx
from tlserve.runtime.backend import load_backend
if sys.argv[2] == "without":
    onnx.onnxruntime.preload_dlls = lambda: None
try:
    load_backend(Bundle.read(Path(sys.argv[1])), "onnx", "cuda")
except DeviceError as error:
    print(error.message)
"""
    without_wheels = python(program, str(bundle.path), "without")
    assert re.search(r"would run on CPUExecutionProvider .*: lib\w+\.so", without_wheels)
    if not torch.cuda.is_available():
        message = python(program, str(bundle.path), "with")
        assert re.search(": (libcuda|all its libraries are)", message)


def test_a_missing_library_names_the_extra(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx = BACKENDS["onnx"]
    absent = replace(onnx.library, module="tlserve_absent.onnx")
    monkeypatch.setitem(BACKENDS, "onnx", replace(onnx, library=absent))
    with pytest.raises(MissingDependencyError, match="tlserve_absent") as caught:
        load_backend(bundle, "onnx")
    assert "tlserve[cpu]" in caught.value.hint


def test_processors() -> None:
    assert 1 <= available_processors() <= 4096


@backends
def test_the_golden_images_pass(bundle: Bundle, name: str) -> None:
    result = check_golden(bundle, load_backend(bundle, name))
    assert result.images == len(golden_files())
    assert result.passed
    recorded = np.load(bundle.path / "golden" / "logits.npy")
    assert result.max_abs_diff <= TOLERANCES[BACKENDS[name].precision] * np.ptp(recorded)
    assert np.ptp(recorded, axis=0).min() > 0.01 * np.ptp(recorded), "answers must differ"


def with_logits(bundle: Bundle, logits: Any) -> Bundle:
    with stage(bundle.path, base=bundle) as staged:
        np.save(staged.fresh("golden/logits.npy"), logits)
        staged.add("golden/logits.npy", "golden-logits")
        return staged.commit(staged.manifest())


@pytest.mark.parametrize("change", [1.0, -1.0, float("nan"), float("inf")])
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_one_altered_logit_fails_the_golden_check(copy: Bundle, change: float) -> None:
    logits = np.load(copy.path / "golden" / "logits.npy")
    logits[2, 1] += change
    altered = with_logits(copy, logits)
    backend = load_backend(altered, "onnx")
    assert not compare_golden(altered, backend).passed
    with pytest.raises(ParityError, match=r"onnx backend .*golden/2-grey\.png"):
        check_golden(altered, backend)


def test_a_difference_just_within_the_tolerance_passes_and_twice_it_fails(copy: Bundle) -> None:
    backend = load_backend(copy, "eager")
    logits = np.load(copy.path / "golden" / "logits.npy")
    tolerance = compare_golden(copy, backend).tolerance
    assert tolerance == pytest.approx(1e-4 * (logits.max() - logits.min()))
    for factor, passes in (0.5, True), (2, False):
        altered = with_logits(Bundle.read(copy.path), logits + np.float32(factor * tolerance))
        assert compare_golden(altered, backend).passed is passes


def test_a_backend_that_answers_nan_fails_the_golden_check(bundle: Bundle) -> None:
    class Nan:
        name = "eager"
        device = "cpu"
        precision: Precision = "float32"
        description: str | None = None

        def logits(self, batch: Any) -> Any:
            return np.full((len(batch), 3), np.nan, dtype=np.float32)

    with pytest.raises(ParityError, match="nan"):
        check_golden(bundle, Nan())


@pytest.mark.parametrize(
    "change",
    [
        {"calibration": Calibration(temperature=2.0)},
        {"calibration": Calibration(temperature=0.5)},
        {"classes": ("bee", "ant", "wasp")},
        {"classes": ("ant", "bee", "hornet")},
    ],
)
def test_another_temperature_or_class_list_fails_the_golden_check(
    copy: Bundle, change: dict[str, Any]
) -> None:
    """Even where the manifest was made consistent again."""
    with stage(copy.path, base=copy) as staged:
        altered = staged.commit(staged.manifest(**change))
    with pytest.raises(ParityError, match="the class list or the temperature"):
        check_golden(altered, load_backend(altered, "onnx"))


def test_answers_that_are_none(copy: Bundle) -> None:
    with stage(copy.path, base=copy) as staged:
        staged.fresh("golden/answers.json").write_text("[]")
        staged.add("golden/answers.json", "golden-answers")
        altered = staged.commit(staged.manifest())
    with pytest.raises(BundleFileError, match="has no answers to the golden images"):
        compare_golden(altered, load_backend(altered, "onnx"))


def test_golden_logits_of_another_shape(copy: Bundle) -> None:
    altered = with_logits(copy, np.zeros((4, 2), dtype=np.float32))
    with pytest.raises(BundleFileError, match=r"shape \(4, 2\), not \(4, 3\)"):
        compare_golden(altered, load_backend(altered, "eager"))


def test_an_altered_golden_image_is_found(copy: Bundle) -> None:
    (copy.path / "golden" / "1-alpha.png").write_bytes(b"other")
    with pytest.raises(ChecksumError, match=r"1-alpha\.png"):
        compare_golden(copy, load_backend(copy, "eager"))


def test_the_manifest_lists_what_lies_there(bundle: Bundle) -> None:
    listed = set(json.loads((bundle.path / "bundle.json").read_text())["files"])
    found = {str(p.relative_to(bundle.path)) for p in bundle.path.rglob("*") if p.is_file()}
    assert found == listed | {"bundle.json"}
