"""Every network as ordered blocks, from the stem to the head."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models import get_model_weights

from tests.networks import shapes
from tlserve.zoo.architectures import architectures, head_parameters, skeleton
from tlserve.zoo.blocks import Block, ordered_blocks

COUNTS = {
    "alexnet|squeezenet.*": 5,
    "convnext.*|swin.*|densenet.*|regnet.*|shufflenet.*|googlenet": 6,
    "(wide_)?resne.*": 6,
    "vgg.*|maxvit_t": 7,
    "mnasnet.*": 9,
    "efficientnet_(b.|v2_m|v2_l)|efficientnet_v2_s": 0,
    "inception_v3": 13,
    "mobilenet_v2": 20,
    "mobilenet_v3_large": 19,
    "mobilenet_v3_small": 15,
    "vit_b.*": 14,
    "vit_l.*": 26,
    "vit_h.*": 34,
}
"""How many blocks there are; 0 where it is counted otherwise."""

EXPECTED = {
    "resnet50": "stem layer1 layer2 layer3 layer4 head",
    "vgg16": "stem features.5 features.10 features.17 features.24 classifier.0 head",
    "densenet121": "stem features.denseblock1 features.transition1 features.transition2 "
    "features.transition3 head",
    "swin_t": "stem features.1 features.2 features.4 features.6 head",
    "convnext_tiny": "stem features.1 features.2 features.4 features.6 head",
    "googlenet": "stem conv2 inception3a inception4a inception5a head",
    "squeezenet1_0": "stem features.3 features.7 features.12 head",
    "maxvit_t": "stem blocks.0 blocks.1 blocks.2 blocks.3 classifier.3 head",
    "mnasnet0_5": "stem " + " ".join(f"layers.{i}" for i in (8, 9, 10, 11, 12, 13, 14)) + " head",
    "vit_b_16": "stem "
    + " ".join(f"encoder.layers.encoder_layer_{i}" for i in range(12))
    + " head",
}


@cache
def blocks_of(name: str) -> tuple[Block, ...]:
    return ordered_blocks(shapes(name, 3), head_parameters(name))


@pytest.mark.parametrize("name", architectures())
def test_every_parameter_is_in_one_block(name: str) -> None:
    found = [p for block in blocks_of(name) for p in block.parameters]
    assert sorted(found) == sorted(n for n, _ in shapes(name, 3).named_parameters())
    assert all(block.parameters for block in blocks_of(name))


@pytest.mark.parametrize("name", architectures())
def test_how_many_blocks(name: str) -> None:
    (count,) = [c for pattern, c in COUNTS.items() if re.fullmatch(pattern, name)]
    blocks = blocks_of(name)
    assert len(blocks) == (count or len(shapes(name, 3).features) + 1)  # type: ignore[arg-type]
    assert (blocks[0].name, blocks[-1].name) == ("stem", "head")
    assert set(head_parameters(name)) <= set(blocks[-1].parameters)


@pytest.mark.parametrize("name", EXPECTED)
def test_the_names_of_blocks(name: str) -> None:
    assert " ".join(block.name for block in blocks_of(name)) == EXPECTED[name]


@pytest.mark.parametrize("name", architectures())
def test_the_order_is_that_of_the_forward_pass(name: str) -> None:
    side = get_model_weights(name).DEFAULT.transforms().crop_size[0]
    model = skeleton(name, 3, image_size=side).to("meta").eval()
    blocks = blocks_of(name)
    order: list[int] = []

    def visited(number: int) -> Any:
        return lambda *_: order.append(number)

    for number, block in enumerate(blocks):
        for path in block.modules:
            model.get_submodule(path).register_forward_hook(visited(number))
    model(torch.empty(2, 3, side, side, device="meta"))
    assert order == sorted(order)
    assert set(order) == set(range(len(blocks)))


@pytest.mark.parametrize(
    ("name", "dropout"),
    [
        ("vgg11", "classifier.5"),
        ("efficientnet_b0", "classifier.0"),
        ("googlenet", "dropout"),
        ("mobilenet_v3_small", "classifier.2"),
        ("squeezenet1_1", "classifier.0"),
    ],
)
def test_the_dropout_before_the_head_belongs_to_it(name: str, dropout: str) -> None:
    assert dropout in blocks_of(name)[-1].modules


def test_auxiliary_heads_belong_to_the_head() -> None:
    head = blocks_of("googlenet")[-1]
    assert {"aux1", "aux2", "fc"} <= set(head.modules)
    assert "aux1.conv.conv.weight" in head.parameters


def test_embeddings_belong_to_the_stem() -> None:
    stem = blocks_of("vit_b_32")[0]
    assert {"class_token", "encoder.pos_embedding", "conv_proj.weight"} <= set(stem.parameters)


def test_a_network_of_another_kind_follows_the_rule() -> None:
    class Other(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 4, 3)
            self.act = nn.ReLU()
            self.stage1 = nn.Sequential(nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3))
            self.down = nn.Conv2d(4, 8, 2)
            self.stage2 = nn.Sequential(nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3))
            self.norm = nn.BatchNorm2d(8)
            self.last = nn.Conv2d(8, 16, 1)
            self.drop = nn.Dropout()
            self.score = nn.Linear(16, 2)

    blocks = ordered_blocks(Other(), ("score.weight", "score.bias"))
    assert [block.modules for block in blocks] == [
        ("first", "act"),
        ("stage1",),
        ("down", "stage2", "norm"),
        ("last",),
        ("drop", "score"),
    ]
