"""What is particular about OpenVINO's files; what holds for every backend is tested with them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from tests.bundles import SPEC
from tests.interpreter import python, without
from tests.processor import needs_bfloat16
from tlserve.bundle import Bundle, stage
from tlserve.errors import BundleFileError, ChecksumError, DeviceError, ProcessorError
from tlserve.runtime.backend import load_backend
from tlserve.runtime.golden import TOLERANCES
from tlserve.runtime.openvino import OpenVinoBackend, check_bfloat16
from tlserve.runtime.processors import available_processors

NAME = "openvino-bf16"
GRAPH, WEIGHTS = "model.bf16.xml", "model.bf16.bin"


class Without:
    """A processor of some years ago, as OpenVINO describes it."""

    def get_property(self, _device: str, name: str) -> Any:
        return {
            "OPTIMIZATION_CAPABILITIES": ["WINOGRAD", "FP32", "INT8", "BIN"],
            "FULL_DEVICE_NAME": "An Old Processor",
        }[name]


def test_a_processor_without_bfloat16_is_named() -> None:
    with pytest.raises(ProcessorError, match=r"\(An Old Processor\) has no instructions for bf"):
        check_bfloat16(Without())


@needs_bfloat16
def test_it_computes_with_what_it_says(bundle: Bundle) -> None:
    backend = load_backend(bundle, NAME)
    assert isinstance(backend, OpenVinoBackend)
    assert backend.precision == "bfloat16"
    (compiled,) = backend.compiled
    assert compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name() == "bf16"
    assert compiled.get_property("INFERENCE_NUM_THREADS") == available_processors()
    batch = np.random.default_rng(0).normal(size=(4, 3, *SPEC.crop)).astype(np.float32)
    found, exact = backend.logits(batch), load_backend(bundle, "eager").logits(batch)
    difference = float(np.abs(found - exact).max()) / float(np.ptp(exact))
    assert TOLERANCES["float32"] < difference < TOLERANCES["bfloat16"]


@needs_bfloat16
@pytest.mark.skipif(available_processors() < 2, reason="one batch runs at a time")
def test_batches_side_by_side_do_not_touch_each_other(bundle: Bundle) -> None:
    backend = load_backend(bundle, NAME, threads=1)
    assert isinstance(backend, OpenVinoBackend)
    assert len(backend.compiled) == available_processors()
    images = np.random.default_rng(1).normal(size=(24, 3, *SPEC.crop)).astype(np.float32)
    alone = [backend.logits(image[None]) for image in images]
    assert len({answer.tobytes() for answer in alone}) == len(images)
    # More callers than requests: some wait.
    with ThreadPoolExecutor(3 * available_processors()) as pool:
        together = list(pool.map(lambda n: backend.logits(images[n][None]), list(range(24)) * 8))
    assert all(np.array_equal(t, alone[n % 24]) for n, t in enumerate(together))


@needs_bfloat16
@pytest.mark.parametrize("_turn", range(4))
def test_the_first_inferences_may_be_side_by_side(bundle: Bundle, _turn: int) -> None:
    """Without what `load` does for it, more than half of these programs never end."""
    program = """
import faulthandler, sys, threading
from pathlib import Path
import numpy as np
from tlserve.bundle import Bundle
from tlserve.runtime.backend import load_backend
faulthandler.dump_traceback_later(60, exit=True)
bundle = Bundle.read(Path(sys.argv[1]))
backend = load_backend(bundle, "openvino-bf16", threads=1)
batch = np.zeros((1, 3, *bundle.manifest.preprocessing.crop), np.float32)
together = threading.Barrier(8)
def run():
    together.wait()
    backend.logits(batch)
threads = [threading.Thread(target=run) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print("answered")
"""
    assert python(program, str(bundle.path)) == "answered\n"


@needs_bfloat16
def test_logits_outlive_the_next_batch(bundle: Bundle) -> None:
    backend = load_backend(bundle, NAME)
    first, second = np.random.default_rng(2).normal(size=(2, 1, 3, *SPEC.crop)).astype(np.float32)
    kept = backend.logits(first)
    before = kept.copy()
    assert not np.array_equal(backend.logits(second), before)
    assert np.array_equal(kept, before)


@needs_bfloat16
def test_altered_weights_are_not_loaded(copy: Bundle) -> None:
    with (copy.path / WEIGHTS).open("r+b") as file:
        file.seek(5000)
        file.write(b"\xff\x00\xff")
    with pytest.raises(ChecksumError, match=WEIGHTS):
        load_backend(copy, NAME)


@needs_bfloat16
def test_weights_that_are_cut_short_are_named(copy: Bundle) -> None:
    """Even where the manifest was made consistent again."""
    with stage(copy.path, base=copy) as staged:
        data = (copy.path / WEIGHTS).read_bytes()
        staged.fresh(WEIGHTS).write_bytes(data[: len(data) // 2])
        staged.add(WEIGHTS, "openvino-bf16-data", precision="bfloat16")
        broken = staged.commit(staged.manifest())
    with pytest.raises(BundleFileError, match=rf"OpenVINO 20\d\d.* cannot open .*{GRAPH}: \w"):
        load_backend(broken, NAME)


def test_a_gpu_is_not_what_it_runs_on(bundle: Bundle) -> None:
    with pytest.raises(DeviceError, match="'openvino-bf16' runs on cpu, not on cuda"):
        load_backend(bundle, NAME, "cuda")


def test_it_reports_nothing_to_its_maker() -> None:
    """It would, from the import on, where its package for that is installed."""
    program = """
import socket, sys
def refuse(*arguments, **options):
    raise AssertionError("it connects")
socket.socket.connect = socket.getaddrinfo = refuse
from tlserve.runtime.openvino import new_core
new_core()
print(sorted(n for n, m in sys.modules.items() if n.startswith("openvino_telemetry") and m))
"""
    assert python(program) == "[]\n"


@needs_bfloat16
def test_it_needs_neither_torch_nor_onnx_runtime(bundle: Bundle) -> None:
    program = (
        without("torch", "torchvision", "onnx", "onnxruntime", "safetensors")
        + """
from pathlib import Path
from tlserve.bundle import Bundle
from tlserve.runtime import Predictor
from tlserve.runtime.golden import check_golden
bundle = Bundle.read(Path(sys.argv[1]))
print(check_golden(bundle, Predictor.load(bundle, "openvino-bf16").backend).passed)
"""
    )
    assert python(program, str(bundle.path)) == "True\n"


@needs_bfloat16
def test_the_file_is_half_as_large(bundle: Bundle) -> None:
    sizes = {name: (bundle.path / name).stat().st_size for name in (WEIGHTS, "model.onnx")}
    assert sizes[WEIGHTS] < 0.55 * sizes["model.onnx"]


def test_a_missing_library_names_its_extra(bundle: Bundle) -> None:
    program = (
        without("openvino")
        + """
from pathlib import Path
from tlserve.bundle import Bundle
from tlserve.errors import MissingDependencyError
from tlserve.runtime.backend import load_backend
try:
    load_backend(Bundle.read(Path(sys.argv[1])), "openvino-bf16")
except MissingDependencyError as error:
    print(error.message, error.hint)
"""
    )
    printed = python(program, str(bundle.path))
    assert "needs the library 'openvino', which is not installed" in printed
    assert "pip install 'tlserve[openvino]'" in printed
