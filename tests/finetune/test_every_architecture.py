"""One step moves exactly what the strategy says, in every architecture."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.ops import StochasticDepth

from tests.networks import filled, shapes
from tests.sessions import session
from tlserve.finetune.config import FinetuneConfig, Strategy
from tlserve.finetune.session import Session
from tlserve.finetune.stepper import Stepper
from tlserve.finetune.strategies import last_blocks, make_plan, train_mode
from tlserve.zoo.architectures import architectures, head_parameters
from tlserve.zoo.split import split

SIDES = {"inception_v3": 299, "maxvit_t": 224, "vit_h_14": 70}
_SIDE = 64
_LARGE_PARAMETERS, _GIANT_PARAMETERS = 35e6, 150e6
_SMALL = 1e-6
_MANY = 8
"""An epoch in which ``gradual`` has unfrozen everything."""


LARGE = frozenset(
    {
        *("convnext_base", "convnext_small"),
        *("efficientnet_b6", "efficientnet_b7", "efficientnet_v2_l", "efficientnet_v2_m"),
        *("regnet_x_8gf", "regnet_x_16gf", "regnet_x_32gf"),
        *("regnet_y_8gf", "regnet_y_16gf", "regnet_y_32gf"),
        *("resnet101", "resnet152", "resnext101_32x8d", "resnext101_64x4d"),
        *("wide_resnet101_2", "wide_resnet50_2"),
        *("swin_b", "swin_s", "swin_v2_b", "swin_v2_s"),
        *("vgg11_bn", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn"),
        "vit_b_32",
    }
)
"""More of what a smaller network has as well: they run with ``-m zoo``."""

GIANT = frozenset({"convnext_large", "regnet_y_128gf", "vit_h_14", "vit_l_16", "vit_l_32"})


def _cases() -> list[object]:
    marks = dict.fromkeys(LARGE, pytest.mark.zoo) | dict.fromkeys(GIANT, pytest.mark.giant)
    return [pytest.param(name, marks=marks.get(name, ())) for name in architectures()]


def test_those_that_run_on_demand_are_the_largest_and_not_the_only_ones_of_their_kind() -> None:
    networks = {name: shapes(name, 3) for name in architectures()}
    sizes = {n: sum(p.numel() for p in model.parameters()) for n, model in networks.items()}
    kinds: dict[type, list[str]] = {}
    for name in sorted(sizes, key=sizes.__getitem__):
        kinds.setdefault(type(networks[name]), []).append(name)
    larger = {name for names in kinds.values() for name in names[1:]}
    assert {name for name, size in sizes.items() if size > _GIANT_PARAMETERS} == GIANT
    assert {name for name in larger if sizes[name] > _LARGE_PARAMETERS} - GIANT == LARGE


@pytest.mark.parametrize("name", _cases())
def test_a_step_moves_what_the_strategy_says(name: str, colours: Path, tmp_path: Path) -> None:
    """With a head for 3 classes, and for 6."""
    base = FinetuneConfig(
        data=colours, name="x", arch=name, image_size=SIDES.get(name, _SIDE), batch_size=3
    )
    cases: tuple[tuple[int, tuple[Strategy, Strategy]], ...]
    cases = (3, ("feature-extraction", "partial")), (6, ("full", "gradual"))
    for classes, strategies in cases:
        model = filled(name, classes, base.image_size or 0)
        for module in model.modules():
            if isinstance(module, StochasticDepth):
                module.p = 0.0  # or now and then a block is left out for all images of a batch
        opened = session(base, model, tmp_path)
        images, labels = next(iter(opened.train))
        assert {model.state_dict()[key].shape[0] for key in opened.head} == {classes}
        if classes == 3:
            _check_split(opened, images)
        for strategy in strategies:
            _check_step(opened, replace(base, strategy=strategy), images, labels)


def _check_step(
    opened: Session, config: FinetuneConfig, images: torch.Tensor, labels: torch.Tensor
) -> None:
    config = replace(config.resolved(), weight_decay=0.0, epochs=12)
    assert isinstance(config.lr, float)
    plan = make_plan(config, opened.blocks, config.lr)
    model = opened.model
    stepper = Stepper(opened, config, plan)
    for epoch in (1, _MANY) if config.strategy == "gradual" else (1,):
        count = _expected(config.strategy, epoch, len(opened.blocks))
        trained = {p for block in opened.blocks[-count:] for p in block.parameters}
        modules = tuple(f"{m}." for block in opened.blocks[-count:] for m in block.modules)
        before = {k: v.clone() for k, v in model.state_dict().items()}
        stepper.begin_epoch(epoch)
        loss = stepper.step(model, images, labels, 1.0)
        assert torch.isfinite(loss)

        after = model.state_dict()
        moved = {key for key in before if not torch.equal(before[key], after[key])}
        parameters = dict(model.named_parameters())
        # Bit for bit: what is frozen, the statistics of its batch normalisations included.
        assert {k for k in moved if k not in trained and not k.startswith(modules)} == set()
        assert {k for k in moved if k in parameters} <= trained
        with_gradient = {k for k in trained if _has_gradient(parameters[k])}
        assert with_gradient <= moved
        assert len(moved & trained) > 0.9 * len(trained)
        assert set(head_parameters(config.arch)) <= moved
        held = [p for group in stepper.optimizer.param_groups for p in group["params"]]
        assert sorted(map(id, held)) == sorted(id(parameters[k]) for k in trained)


def _check_split(opened: Session, images: torch.Tensor) -> None:
    """Cut below the head and below the last blocks, in both modes, it computes the same."""
    for count in (1, last_blocks(len(opened.blocks))):
        for training in (False, True):
            opened.model.eval()
            if training:
                train_mode(opened.model, opened.blocks, count)
            parts = split(opened.model, opened.blocks, count)
            with torch.no_grad():
                torch.manual_seed(0)
                whole = opened.model(images)
                torch.manual_seed(0)
                cut = parts.trained(*parts.frozen(images))
            pairs = zip(whole, cut, strict=True) if isinstance(whole, tuple) else [(whole, cut)]
            assert all(torch.equal(*pair) for pair in pairs)
            assert not set(opened.head) & set(parts.frozen.state_dict())


def _expected(strategy: Strategy, epoch: int, count: int) -> int:
    if strategy == "partial":
        return max(2, round(count / 3))
    if strategy == "feature-extraction" or (strategy == "gradual" and epoch == 1):
        return 1
    return count


def _has_gradient(parameter: nn.Parameter) -> bool:
    # Much smaller ones drown in the term that keeps Adam from dividing by zero.
    return parameter.grad is not None and bool((parameter.grad.abs() > _SMALL).any())
