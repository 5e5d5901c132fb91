"""INT8 files as ONNX Runtime runs them: integers from layer to layer."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.int8 import Quantiser, layer_groups

RNG = np.random.default_rng(0)
IMAGES = [RNG.standard_normal((8, 3, 16, 16)).astype(np.float32) for _ in range(4)]


def network(path: Path, *activations: Sequence[float] | None) -> Path:
    """Write convolutions, each followed by a Clip with these borders, or by a Relu."""
    nodes, constants, last = [], [], "images"
    for number, borders in enumerate(activations):
        shape = (8, 8 if number else 3, 3, 3)
        weight = RNG.standard_normal(shape).astype(np.float32) / 5
        constants.append(numpy_helper.from_array(weight, f"weight{number}"))
        inputs = [last, f"weight{number}"]
        nodes.append(helper.make_node("Conv", inputs, [f"conv{number}"], f"conv_{number}"))
        bounds = []
        for name, value in zip(("low", "high"), borders or (), strict=False):
            bounds.append(f"{name}{number}")
            constants.append(numpy_helper.from_array(np.array(value, np.float32), bounds[-1]))
        kind, last = ("Relu" if borders is None else "Clip"), f"cut{number}"
        nodes.append(helper.make_node(kind, [f"conv{number}", *bounds], [last], f"cut_{number}"))
    edge = 16 - 2 * len(activations)
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, 16, 16])],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, ["batch", 8, edge, edge])],
        constants,
    )
    opset = helper.make_opsetid("", 18)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=10)
    onnx.save_model(model, str(path))
    return path


def outputs(path: Path, images: np.ndarray, optimised: Path | None = None) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if optimised is not None:
        options.optimized_model_filepath = str(optimised)
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    result: np.ndarray = session.run(None, {"images": images})[0]
    return result


@pytest.mark.parametrize(
    ("activations", "left"),
    [
        ([(0, 6), None, (0, 1)], []),
        # Integers reach to 0 always: they cannot stand for a higher border.
        ([(0, 6), (0.5, 2), None], ["cut_1"]),
        ([None, (-1, 1), (0, 6)], ["cut_1"]),
    ],
    ids=["all from 0", "from 0.5", "from -1"],
)
def test_activations_are_the_borders_of_the_integers(
    tmp_path: Path, activations: list[Sequence[float] | None], left: list[str]
) -> None:
    float32 = network(tmp_path / "float32.onnx", *activations)
    (tmp_path / "between").mkdir()
    int8 = tmp_path / "int8.onnx"
    details = Quantiser(float32, IMAGES, tmp_path / "between").write(int8, {}, attempt=0)

    assert (details["layers"], details["layers_in_float"]) == (3, 0)
    nodes = onnx.load_model(str(int8)).graph.node
    assert [node.name for node in nodes if node.op_type in ("Relu", "Clip")] == left
    expected = outputs(float32, IMAGES[0])
    found = outputs(int8, IMAGES[0], tmp_path / "optimised.onnx")
    assert np.abs(found - expected).mean() < 0.02 * np.ptp(expected)
    assert found.min() >= expected.min() - 1e-6

    graph = onnx.load_model(str(tmp_path / "optimised.onnx")).graph
    made = {name: node.op_type for node in graph.node for name in node.output}
    converted_twice = [
        node.name
        for node in graph.node
        if node.op_type == "QuantizeLinear" and made.get(node.input[0]) == "DequantizeLinear"
    ]
    assert not converted_twice


def test_borders_of_groups_lie_where_the_network_is_narrow() -> None:
    # As in MobileNetV2: each block widens 8 channels to 32, filters them, and narrows them again.
    widths = [8, 8, 8, *[32, 32, 8] * 16]
    nodes, constants = [], []
    for number, (before, after) in enumerate(pairwise([3, *widths])):
        weight = np.zeros((after, before, 1, 1), np.float32)
        constants.append(numpy_helper.from_array(weight, f"weight{number}"))
        inputs = [f"x{number}", f"weight{number}"]
        nodes.append(helper.make_node("Conv", inputs, [f"x{number + 1}"], f"conv_{number}"))
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x0", TensorProto.FLOAT, ["batch", 3, 16, 16])],
        [helper.make_tensor_value_info(f"x{len(nodes)}", TensorProto.FLOAT, None)],
        constants,
    )
    graph = onnx.shape_inference.infer_shapes(helper.make_model(graph)).graph

    groups = layer_groups(graph)

    assert [name for group in groups for name in group] == [node.name for node in nodes]
    assert len(groups) == 16
    assert {widths[int(group[-1].removeprefix("conv_"))] for group in groups} == {8}
