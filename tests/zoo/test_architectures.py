"""Every architecture is torchvision's own, with another head."""

from __future__ import annotations

import pytest
import torch
from torchvision.models import get_model

from tlserve.errors import UsageError
from tlserve.zoo.architectures import (
    ARCHITECTURES,
    build,
    count_parameters,
    head_parameters,
    skeleton,
)

HEADS = {
    "efficientnet_b0": ("classifier.1.weight", "classifier.1.bias"),
    "mobilenet_v2": ("classifier.1.weight", "classifier.1.bias"),
    "mobilenet_v3_small": ("classifier.3.weight", "classifier.3.bias"),
    "resnet18": ("fc.weight", "fc.bias"),
    "resnet50": ("fc.weight", "fc.bias"),
    "vgg16": ("classifier.6.weight", "classifier.6.bias"),
    "vit_b_16": ("heads.head.weight", "heads.head.bias"),
}
ANSWERED = ["efficientnet_b0", "mobilenet_v2", "mobilenet_v3_small", "resnet18"]
"""Those that are run here; the others have hundreds of megabytes, and differ in nothing tested."""


def test_every_architecture_has_its_expectation() -> None:
    assert set(HEADS) == set(ARCHITECTURES)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_head(name: str) -> None:
    assert head_parameters(name) == HEADS[name]


@pytest.mark.parametrize("num_classes", [3, 6])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_keys_and_shapes_are_torchvisions(name: str, num_classes: int) -> None:
    with torch.device("meta"):
        ours = build(name, num_classes).state_dict()
        theirs = get_model(name, num_classes=num_classes).state_dict()
        imagenet = get_model(name).state_dict()
    assert list(ours) == list(theirs)
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}
    changed = {k for k, v in ours.items() if v.shape != imagenet[k].shape}
    assert changed == set(HEADS[name])
    assert all(ours[key].shape[0] == num_classes for key in changed)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_skeleton_takes_no_memory(name: str) -> None:
    model = skeleton(name, 3)
    assert all(tensor.is_meta for tensor in model.state_dict().values())
    assert all(tensor.is_meta for tensor in model.buffers())


@pytest.mark.parametrize(("name", "num_classes"), [*zip(ANSWERED, [3, 6, 3, 6], strict=True)])
def test_a_filled_skeleton_answers_as_the_original(name: str, num_classes: int) -> None:
    torch.manual_seed(0)
    original = build(name, num_classes).eval()
    copy = skeleton(name, num_classes).eval()
    copy.load_state_dict(original.state_dict(), strict=True, assign=True)
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        expected, found = original(images), copy(images)
    assert expected.shape == (2, num_classes)
    assert not torch.equal(expected[0], expected[1])
    assert torch.equal(found, expected)


def test_a_vision_transformer_is_told_its_input_size() -> None:
    model = skeleton("vit_b_16", 3, image_size=64)
    assert model.get_parameter("encoder.pos_embedding").shape == (1, 1 + 4 * 4, 768)
    assert skeleton("resnet18", 3, image_size=64).state_dict().keys() == (
        skeleton("resnet18", 3).state_dict().keys()
    )


@pytest.mark.parametrize(
    ("name", "near"),
    [("resnet-50", "resnet50"), ("ResNet18", "resnet18"), ("vit_b16", "vit_b_16")],
)
def test_an_unknown_architecture_suggests_the_nearest(name: str, near: str) -> None:
    with pytest.raises(UsageError, match=f"Unknown architecture '{name}'") as caught:
        build(name, 3)
    assert caught.value.hint.startswith("Did you mean")
    assert near in caught.value.hint.split("?")[0]
    assert all(known in caught.value.hint for known in ARCHITECTURES)


def test_a_name_like_no_other_suggests_nothing() -> None:
    with pytest.raises(UsageError) as caught:
        build("xyzzy", 3)
    assert caught.value.hint.startswith("Known: ")


def test_counting_parameters() -> None:
    model = skeleton("resnet18", 3)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    model.get_parameter("fc.bias").requires_grad_(True)
    assert count_parameters(model) == (11_178_051, 3)
