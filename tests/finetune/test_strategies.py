"""A training step moves exactly what the strategy says, in every architecture."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.networks import stand_in
from tlserve.finetune.config import Strategy
from tlserve.finetune.strategies import freeze, frozen_batch_norms, train_mode
from tlserve.zoo.architectures import build, head_parameters

_SIDE = 64
FORMER = [
    "efficientnet_b0",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "resnet18",
    "resnet50",
    "vgg16",
    "vit_b_16",
]


def _step(model: nn.Module, architecture: str, strategy: Strategy) -> set[str]:
    """Take one step and name the entries of the state dict that it moved."""
    parameters = freeze(model, architecture, strategy)
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    train_mode(model)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(3, 3, _SIDE, _SIDE, generator=generator)
    functional.cross_entropy(model(images), torch.tensor([0, 1, 2])).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}


@pytest.mark.parametrize("architecture", FORMER)
def test_feature_extraction_moves_the_head_alone(architecture: str) -> None:
    model = stand_in(architecture, 3, _SIDE)
    moved = _step(model, architecture, "feature-extraction")
    assert moved == set(head_parameters(architecture))
    has_batch_norm = any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    assert bool(frozen_batch_norms(model)) == has_batch_norm


@pytest.mark.parametrize("architecture", ["resnet18", "mobilenet_v3_small"])
def test_full_moves_everything_with_a_gradient(architecture: str) -> None:
    torch.manual_seed(0)
    model = build(architecture, 3, image_size=_SIDE)
    moved = _step(model, architecture, "full")
    parameters = {name for name, _ in model.named_parameters()}
    assert parameters <= moved
    assert any("running_mean" in name for name in moved)
    assert not frozen_batch_norms(model)


@pytest.mark.parametrize(
    ("architecture", "dropout"),
    [
        ("mobilenet_v2", "classifier.0"),
        ("vgg16", "classifier.5"),
        ("efficientnet_b0", "classifier.0"),
    ],
)
def test_the_dropout_before_the_head_stays_active(architecture: str, dropout: str) -> None:
    model = build(architecture, 3)
    freeze(model, architecture, "feature-extraction")
    train_mode(model)
    active = {name for name, m in model.named_modules() if isinstance(m, nn.Dropout) and m.training}
    assert active == {dropout}
