"""What a strategy trains, and how fast."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.networks import shapes, stand_in
from tlserve.errors import UsageError
from tlserve.finetune.config import FinetuneConfig
from tlserve.finetune.strategies import (
    Plan,
    freeze,
    last_blocks,
    make_plan,
    train_mode,
)
from tlserve.zoo.architectures import head_parameters
from tlserve.zoo.blocks import Block, ordered_blocks

ALL = 6
"""How many blocks a ResNet has."""


def blocks(architecture: str = "resnet18") -> tuple[Block, ...]:
    return ordered_blocks(shapes(architecture, 3), head_parameters(architecture))


def plan(**settings: Any) -> Plan:
    recipe = FinetuneConfig(data=Path(), name="x", **settings).resolved()
    assert isinstance(recipe.lr, float)
    return make_plan(recipe, blocks(), recipe.lr)


@pytest.mark.parametrize(
    ("settings", "opened"),
    [
        ({"strategy": "feature-extraction"}, 1),
        ({"strategy": "partial"}, 2),
        ({"strategy": "partial", "unfreeze": 3}, 3),
        ({"strategy": "partial", "unfreeze": ALL}, ALL),
        ({"strategy": "partial", "freeze": 1}, 5),
        ({"strategy": "discriminative"}, ALL),
        ({"strategy": "full"}, ALL),
    ],
)
def test_how_many_blocks_are_trained(settings: dict[str, Any], opened: int) -> None:
    assert [plan(**settings).opened(epoch) for epoch in (1, 2, 20)] == [opened] * 3


@pytest.mark.parametrize(
    ("settings", "rates"),
    [
        ({"strategy": "full"}, [1e-4] * ALL),
        ({"strategy": "full", "lr": 0.5}, [0.5] * ALL),
        ({"strategy": "discriminative"}, [1e-5, 1e-5, 1e-5, 1e-5, 1e-4, 1e-3]),
        ({"strategy": "discriminative", "lr": 1.0}, [0.01, 0.01, 0.01, 0.01, 0.1, 1.0]),
        (
            {"strategy": "full", "lr": 1.0, "layer_decay": 0.5},
            [1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1],
        ),
    ],
)
def test_learning_rates_by_depth(settings: dict[str, Any], rates: list[float]) -> None:
    assert plan(**settings).rates == pytest.approx(rates)


def test_gradual_opens_block_by_block_from_the_top() -> None:
    gradual = plan(strategy="gradual", epochs=9)
    assert [gradual.opened(epoch) for epoch in range(1, 10)] == [1, 2, 3, 4, 5, 6, 6, 6, 6]
    assert [gradual.trained_from(number) for number in range(ALL)] == [6, 5, 4, 3, 2, 1]
    long = plan(strategy="gradual", epochs=30)
    opened = [long.opened(epoch) for epoch in range(1, 31)]
    assert opened == sorted(opened)
    assert (opened[0], opened[19], set(opened)) == (1, ALL, set(range(1, ALL + 1)))
    assert plan(strategy="gradual", epochs=1).opened(1) == ALL


def test_what_is_never_trained_says_so() -> None:
    partial = plan(strategy="partial")
    assert [partial.trained_from(number) for number in range(ALL)] == [0, 0, 0, 0, 1, 1]


def test_the_last_blocks_are_a_third() -> None:
    assert [last_blocks(count) for count in (2, 5, 6, 14, 20)] == [2, 2, 2, 5, 7]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strategy": "partial", "unfreeze": 7}, "--unfreeze 7: the network has 6 blocks"),
        ({"strategy": "partial", "freeze": 6}, "--freeze 6: the network has 6 blocks"),
        ({"strategy": "full", "unfreeze": 2}, "--unfreeze is for --strategy partial, not full"),
        ({"strategy": "gradual", "freeze": 2}, "--freeze is for --strategy partial, not gradual"),
        ({"strategy": "partial", "freeze": 1, "unfreeze": 1}, "the same thing from two ends"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        plan(**settings)


def test_a_frozen_network_answers_in_training_as_in_evaluation() -> None:
    model = stand_in("googlenet", 3, 64)
    images = torch.randn(2, 3, 64, 64)
    expected = model(images)
    parts = ordered_blocks(model, head_parameters("googlenet"))
    freeze(model, parts, 1)
    train_mode(model, parts, 1)
    model.get_submodule("dropout").eval()
    logits, *auxiliary = model(images)
    assert torch.equal(logits, expected)
    assert len(auxiliary) == 2
    # But for those of the auxiliary heads.
    trained = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d) and m.training]
    assert len(trained) == 2
    assert not model.get_submodule("conv1.bn").training


@pytest.mark.parametrize(
    ("architecture", "dropout"),
    [
        ("mobilenet_v2", "classifier.0"),
        ("vgg11", "classifier.5"),
        ("efficientnet_b0", "classifier.0"),
        ("squeezenet1_1", "classifier.0"),
    ],
)
def test_the_dropout_before_the_head_stays_active(architecture: str, dropout: str) -> None:
    model = stand_in(architecture, 3, 64)
    parts = ordered_blocks(model, head_parameters(architecture))
    train_mode(model, parts, 1)
    dropouts = (torch.nn.Dropout,)
    active = {n for n, m in model.named_modules() if isinstance(m, dropouts) and m.training}
    assert active == {dropout}


def test_a_plan_scales_with_the_rate_that_is_found() -> None:
    recipe = FinetuneConfig(data=Path(), name="x", strategy="discriminative", lr="find").resolved()
    assert make_plan(replace(recipe, lr=2.0), blocks(), 2.0).rates[-1] == 2.0
