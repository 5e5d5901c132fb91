"""Every architecture goes the whole way: training step, bundle, exports, parity, answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.whole_way import go
from tlserve.errors import UsageError
from tlserve.zoo.architectures import architectures, check_input_size

ONE_OF_EACH_KIND = frozenset(
    {
        "convnext_tiny",
        "googlenet",
        "mobilenet_v3_small",
        "swin_v2_t",
        "vit_b_32",
    }
)
"""What runs always: each kind of network by a small one, but for those whose layers others have, or
which other tests export.

All of them run in benchmarks/zoo_parity.py, which writes docs/architectures.md.
"""

_ALWAYS = (pytest.mark.slow,)
_ON_DEMAND = (pytest.mark.slow, pytest.mark.zoo, pytest.mark.timeout(1800))

_SIDES = (64, 70, 224, 299)
"""Pixels; the first one that a network takes: the kinds of layers are the same at any size."""


def _side(architecture: str) -> int:
    for side in _SIDES:
        try:
            check_input_size(architecture, side)
        except UsageError:
            continue
        return side
    raise AssertionError(f"{architecture} takes none of {_SIDES} pixels")


@pytest.mark.parametrize(
    "architecture",
    [
        pytest.param(name, marks=_ALWAYS if name in ONE_OF_EACH_KIND else _ON_DEMAND)
        for name in architectures()
    ],
)
def test_an_architecture_goes_the_whole_way(architecture: str, tmp_path: Path) -> None:
    outcome = go(architecture, _side(architecture), tmp_path)
    assert outcome.torchscript.difference <= 1e-4
    assert outcome.onnx.difference <= 1e-4
    # 200 times what parity allows: the outputs do tell the images apart.
    assert outcome.spread > 0.02
