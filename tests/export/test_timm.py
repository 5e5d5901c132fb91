"""Models of timm go the same way as torchvision's."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.whole_way import go
from tests.interpreter import python, without

ONE_OF_EACH_KIND = [
    "timm/resnet10t.c3_in1k",
    "timm/test_convnext",
    "timm/test_coatnet",
    "timm/test_vit",
]
"""CoAtNet has tables that are in no state dict, ViT an embedding for one size of the input."""
_SIDE = 64


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ONE_OF_EACH_KIND)
def test_a_model_goes_the_whole_way(architecture: str, tmp_path: Path) -> None:
    assert go(architecture, _SIDE, tmp_path).spread > 0.02
    # Exported, it is served without timm.
    program = (
        without("timm")
        + """
from pathlib import Path
from tlserve.bundle import Bundle
from tlserve.runtime import Predictor
from tlserve.runtime.golden import check_golden
(path,) = Path(sys.argv[1]).iterdir()
bundle = Bundle.read(path)
for name in "onnx", "torchscript":
    print(check_golden(bundle, Predictor.load(bundle, name).backend).passed)
"""
    )
    assert python(program, str(tmp_path / "models")) == "True\nTrue\n"
