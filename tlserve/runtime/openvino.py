"""The OpenVINO backend: processors that have bfloat16; needs neither torch nor ONNX Runtime."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlserve.bundle import Bundle
from tlserve.bundle.manifest import Precision
from tlserve.errors import BundleFileError, DeviceError, ProcessorError
from tlserve.runtime.archive import OPENVINO_METADATA
from tlserve.runtime.backend import BACKENDS, Backend, Device
from tlserve.runtime.processors import available_processors
from tlserve.runtime.serving import lanes

# OpenVINO reports its import to its maker where this package is; without it, a stand-in of
# OpenVINO's own that does nothing takes its place.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
import openvino  # noqa: E402

_DEVICE = "CPU"
_BFLOAT16 = openvino.Type.bf16

_one_at_a_time = threading.Lock()


class OpenVinoBackend:
    """As many ``openvino.CompiledModel`` as batches run side by side.

    One for all would hand each batch to a thread of its own, and leave the processor idle until
    that wakes up; what has one stream runs on the thread that calls it.
    """

    device = "cpu"

    def __init__(self, compiled: list[openvino.CompiledModel], name: str, description: str) -> None:
        self.compiled = compiled
        self.name = name
        self.precision: Precision = BACKENDS[name].precision
        self.description: str | None = description
        self._free: SimpleQueue[openvino.InferRequest] = SimpleQueue()
        for model in compiled:
            self._free.put(model.create_infer_request())

    def logits(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run the network; see :class:`tlserve.runtime.backend.Backend`."""
        request = self._free.get()
        try:
            # It reads the batch where it lies. The logits are a copy: the next run overwrites them.
            logits: NDArray[np.float32] = request.infer({0: batch}, share_inputs=True)[0]
        finally:
            self._free.put(request)
        return logits


def load(bundle: Bundle, name: str, _device: Device, threads: int | None) -> Backend:
    """Open the bundle's OpenVINO file.

    Raises:
        BundleFileError: There is none, or OpenVINO cannot read it.
        ChecksumError: It was altered.
        ProcessorError: The processor has no bfloat16.
        DeviceError: OpenVINO would compute with another type.
    """
    path = bundle.verified(BACKENDS[name].kind)
    core = new_core()
    check_bfloat16(core)
    with _one_at_a_time:
        _infer_anything(core)
    properties = {
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads or available_processors(),
        "INFERENCE_PRECISION_HINT": _BFLOAT16,
        # A thread that is tied to a processor waits for whatever else runs there.
        "ENABLE_CPU_PINNING": False,
    }
    try:
        model = core.read_model(path)
        side_by_side = lanes("cpu", threads or available_processors())
        compiled = [core.compile_model(model, _DEVICE, properties) for _ in range(side_by_side)]
    except RuntimeError as error:
        raise _cannot_open(path, error) from error
    found = compiled[0].get_property("INFERENCE_PRECISION_HINT")
    if found != _BFLOAT16:
        raise DeviceError(
            f"OpenVINO would compute with {found.get_type_name()} instead of bf16.",
            hint="Use --backend onnx.",
        )
    return OpenVinoBackend(compiled, name, _description(model))


def new_core() -> openvino.Core:
    """Make what reads and compiles files."""
    core = openvino.Core()
    # Mapped, a file that is cut short while it is used would end the process.
    core.set_property({"ENABLE_MMAP": False})
    return core


def check_bfloat16(core: openvino.Core | None = None) -> None:
    """See that the processor computes with bfloat16.

    Without its instructions OpenVINO would compute with something else, or slowly.

    Raises:
        ProcessorError: It lacks them.
    """
    core = core or new_core()
    if "BF16" not in core.get_property(_DEVICE, "OPTIMIZATION_CAPABILITIES"):
        processor = core.get_property(_DEVICE, "FULL_DEVICE_NAME")
        raise ProcessorError(
            f"This processor ({processor}) has no instructions for bfloat16, which came with "
            "AVX512_BF16 and AMX.",
            hint="Use the ONNX file, float32 or INT8: --backend onnx or onnx-int8.",
        )


def _infer_anything(core: openvino.Core) -> None:
    """Have the bindings set up, by one thread, what they set up in a process's first inference.

    In the first two of two threads, one may hold the interpreter's lock and wait for what the other
    sets up, which waits for that lock: for ever.
    """
    anything = openvino.op.Parameter(openvino.Type.f32, openvino.Shape([1]))
    network = openvino.Model([openvino.op.Result(anything.output(0))], [anything])
    request = core.compile_model(network, _DEVICE).create_infer_request()
    request.infer({0: np.zeros(1, np.float32)}, share_inputs=True)


def _description(model: Any) -> str:
    if not model.has_rt_info(OPENVINO_METADATA):
        return ""
    return str(model.get_rt_info(OPENVINO_METADATA).value)


def _cannot_open(path: Path, error: RuntimeError) -> BundleFileError:
    # Its messages begin with places in its source, a line each; the last line is the reason.
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = lines[-1] if lines else type(error).__name__
    return BundleFileError(
        f"OpenVINO {openvino.__version__} cannot open {path}: {reason}.",
        hint="Export the model again.",
    )
