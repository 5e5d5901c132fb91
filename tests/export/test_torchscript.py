"""Tracing where it is sound, scripting where it is not, and the choice recorded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.jit._trace import TracingCheckError

from export import torchscript
from tlserve.zoo.architectures import build

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")


class Alternating(nn.Module):
    """Does something else at every other call: a trace of it holds for half of the calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Tensor
        self.register_buffer("calls", torch.zeros(1, dtype=torch.int64))

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        if int(self.calls) % 2 == 1:
            return images.relu()
        return images.tanh()


def test_a_model_whose_graph_differs_between_calls_is_scripted(tmp_path: Path) -> None:
    model = Alternating()
    path = tmp_path / "model.pt"
    details = torchscript.write(model, torch.randn(2, 3), path, "{}")
    assert details == {"method": "script", "reason": "the traced graph differs between calls"}
    loaded = torch.jit.load(str(path))  # type: ignore[no-untyped-call]
    images = torch.tensor([[-1.0, 2.0]])
    answers = {tuple(loaded(images)[0].tolist()) for _ in range(2)}
    assert answers == {tuple(t[0].tolist()) for t in (images.relu(), images.tanh())}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_vit_b_16_traces_without_gradients_and_fails_the_tracers_check_with_them(
    tmp_path: Path,
) -> None:
    """If the second half stops failing, the remark in ``export.torchscript`` is out of date."""
    model = build("vit_b_16", 3).eval()
    example = torch.randn(2, 3, 224, 224)
    details = torchscript.write(model, example, tmp_path / "model.pt", "{}")
    assert details["method"] == "trace"
    with pytest.raises(TracingCheckError, match="Graphs differed"):
        torch.jit.trace(model, example)  # type: ignore[no-untyped-call]
