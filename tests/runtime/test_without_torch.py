"""The ONNX backend needs no torch, and importing tlserve needs nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.bundles import golden_files
from tests.interpreter import python, without
from tlserve.bundle import Bundle
from tlserve.runtime import Predictor

BLOCKER = without("torch", "torchvision", "safetensors")


def test_the_onnx_backend_answers_where_torch_is_absent(bundle: Bundle, tmp_path: Path) -> None:
    program = (
        BLOCKER
        + """
from pathlib import Path
import numpy as np
from tlserve.bundle import Bundle
from tlserve.errors import MissingDependencyError
from tlserve.runtime import Predictor
from tlserve.runtime.golden import check_golden, golden_tensors
bundle = Bundle.read(Path(sys.argv[1]))
predictor = Predictor.load(bundle, "onnx")
assert check_golden(bundle, predictor.backend).passed
np.save(sys.argv[2], predictor.probabilities(golden_tensors(bundle)))
assert not {"torch", "torchvision", "safetensors"} & sys.modules.keys()
for name in "eager", "torchscript":
    try:
        Predictor.load(bundle, name)
    except MissingDependencyError as error:
        print(error)
"""
    )
    output = python(program, str(bundle.path), str(tmp_path / "answers.npy"))
    assert output.count("needs the library 'torch'") == 2
    assert output.count("pip install 'tlserve[train]'") == 2
    predictor = Predictor.load(bundle, "onnx")
    batch = np.stack([predictor.preprocess(data) for data in golden_files().values()])
    assert np.array_equal(np.load(tmp_path / "answers.npy"), predictor.probabilities(batch))


def test_the_blocker_blocks() -> None:
    program = BLOCKER + "try:\n    import torch\nexcept ModuleNotFoundError:\n    print('blocked')"
    assert python(program) == "blocked\n"


def test_importing_tlserve_imports_nothing_else() -> None:
    program = """
import sys
import tlserve
third_party = {"numpy", "pydantic", "PIL", "torch", "bentoml", "onnxruntime", "typer", "rich"}
print(sorted(third_party & sys.modules.keys()))
"""
    assert python(program) == "[]\n"
