"""Every architecture is torchvision's own, with another head."""

from __future__ import annotations

import re

import pytest
import torch
import torchvision
from torchvision.models import get_model, get_model_weights, list_models

from tests.networks import shapes, stand_in
from tlserve.errors import UsageError
from tlserve.zoo.architectures import (
    architectures,
    auxiliary_weight,
    build,
    check_input_size,
    count_parameters,
    head_parameters,
    skeleton,
)

HEADS = {
    "(alexnet|vgg).*": "classifier.6",
    "convnext.*": "classifier.2",
    "densenet.*": "classifier",
    "(efficientnet|mnasnet|squeezenet|mobilenet_v2).*": "classifier.1",
    "mobilenet_v3.*": "classifier.3",
    "(regnet|resne|shufflenet|wide_resnet).*": "fc",
    "swin.*": "head",
    "vit.*": "heads.head",
    "maxvit_t": "classifier.5",
    "googlenet": "aux1.fc2 aux2.fc2 fc",
    "inception_v3": "AuxLogits.fc fc",
}
"""The modules of the head, by the architecture's name; written down by hand from torchvision."""

WITHOUT_BIAS = {"maxvit_t"}


def test_all_of_torchvisions_classifiers_are_there() -> None:
    assert architectures() == tuple(list_models(module=torchvision.models))
    assert len(architectures()) >= 80


@pytest.mark.parametrize("name", architectures())
def test_the_head(name: str) -> None:
    (modules,) = [m for pattern, m in HEADS.items() if re.fullmatch(pattern, name)]
    kinds = ("weight",) if name in WITHOUT_BIAS else ("weight", "bias")
    assert head_parameters(name) == tuple(f"{m}.{k}" for m in modules.split() for k in kinds)


@pytest.mark.parametrize("name", architectures())
def test_only_the_head_changes_with_the_number_of_classes(name: str) -> None:
    three, six = (shapes(name, count).state_dict() for count in (3, 6))
    assert list(three) == list(six)
    changed = {k for k, v in three.items() if v.shape != six[k].shape}
    assert changed == set(head_parameters(name))
    assert all((three[k].shape[0], six[k].shape[0]) == (3, 6) for k in changed)


@pytest.mark.parametrize("name", architectures())
def test_a_skeleton_takes_no_memory(name: str) -> None:
    model = shapes(name, 3)
    assert all(parameter.is_meta for parameter in model.parameters())
    # What is not on the meta device are tables of positions and counters.
    held = sum(buffer.numel() for buffer in model.buffers() if not buffer.is_meta)
    assert held < 200_000


@pytest.mark.parametrize(
    ("name", "num_classes"),
    [
        ("efficientnet_b0", 3),
        ("mobilenet_v3_small", 3),
        ("resnet18", 6),
        ("regnet_y_400mf", 6),
        ("swin_t", 3),
        ("swin_v2_t", 3),
        ("squeezenet1_1", 3),
        ("shufflenet_v2_x0_5", 6),
    ],
)
def test_a_filled_skeleton_answers_as_torchvisions_own(name: str, num_classes: int) -> None:
    torch.manual_seed(0)
    original = get_model(name, num_classes=num_classes).eval()
    copy = skeleton(name, num_classes).eval()
    copy.load_state_dict(original.state_dict(), strict=True, assign=True)
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        expected, found = original(images), copy(images)
    assert expected.shape == (2, num_classes)
    assert not torch.equal(expected[0], expected[1])
    assert torch.equal(found, expected)


def test_auxiliary_heads_answer_in_training_only_and_have_a_weight() -> None:
    model = stand_in("googlenet", 3, 64)
    images = torch.randn(2, 3, 64, 64)
    assert model(images).shape == (2, 3)
    outputs = model.train()(images)
    assert [o.shape for o in outputs] == [(2, 3)] * 3
    assert auxiliary_weight("googlenet") == 0.3
    assert auxiliary_weight("inception_v3") == 0.4
    assert auxiliary_weight("resnet18") == 0


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_inputs_are_scaled_as_for_the_pretrained_weights(name: str) -> None:
    # Torchvision switches it on where it loads the weights itself.
    assert skeleton(name, 3).transform_input


@pytest.mark.parametrize(("name", "size"), [("vit_b_16", 64), ("maxvit_t", 448)])
def test_some_architectures_are_told_their_input_size(name: str, size: int) -> None:
    check_input_size(name, size)
    model = skeleton(name, 3, image_size=size)
    if name == "vit_b_16":
        assert model.get_parameter("encoder.pos_embedding").shape == (1, 1 + 4 * 4, 768)
    assert skeleton("resnet18", 3, image_size=64).state_dict().keys() == (
        skeleton("resnet18", 3).state_dict().keys()
    )


@pytest.mark.parametrize("name", architectures())
def test_the_weights_own_input_size_fits(name: str) -> None:
    check_input_size(name, get_model_weights(name).DEFAULT.transforms().crop_size[0])


@pytest.mark.parametrize(
    ("name", "size"), [("inception_v3", 75), ("alexnet", 32), ("vit_b_16", 50), ("maxvit_t", 200)]
)
def test_an_input_that_does_not_fit_is_refused(name: str, size: int) -> None:
    with pytest.raises(UsageError, match=f"{name} does not take images of {size} x {size}"):
        check_input_size(name, size)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("resnet-50", "resnet50"),
        ("ResNet18", "resnet18"),
        ("vit_b16", "vit_b_16"),
        ("regnet", "regnet_x_16gf"),
        ("efficientnet", "efficientnet_b0"),
    ],
)
def test_an_unknown_architecture_suggests_the_nearest(name: str, near: str) -> None:
    with pytest.raises(UsageError, match=f"Unknown architecture '{name}'") as caught:
        build(name, 3)
    assert caught.value.hint.startswith("Did you mean")
    assert near in caught.value.hint.split("?")[0]


def test_a_name_like_no_other_suggests_the_list() -> None:
    with pytest.raises(UsageError) as caught:
        build("xyzzy", 3)
    assert caught.value.hint == f"`tlserve inspect` lists all {len(architectures())}."


def test_counting_parameters() -> None:
    model = skeleton("resnet18", 3)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    model.get_parameter("fc.bias").requires_grad_(True)
    assert count_parameters(model) == (11_178_051, 3)
