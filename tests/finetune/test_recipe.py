"""The parts of the recipe, each against its definition."""

from __future__ import annotations

import copy
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR

from tests.networks import filled
from tests.sessions import session
from tlserve.data.folder import Sample
from tlserve.data.loading import ViewBatches
from tlserve.errors import DeviceError, TlserveError
from tlserve.finetune.average import averaged
from tlserve.finetune.config import FinetuneConfig
from tlserve.finetune.objective import Objective, class_weights
from tlserve.finetune.optimizer import state_bytes
from tlserve.finetune.precision import MixedPrecision
from tlserve.finetune.rate_finder import find_rate, suggest
from tlserve.finetune.schedule import Schedule
from tlserve.finetune.stepper import Stepper
from tlserve.finetune.strategies import make_plan

CPU = torch.device("cpu")


def recipe(**settings: Any) -> FinetuneConfig:
    return FinetuneConfig(data=Path(), name="x", **settings).resolved()


def factors(config: FinetuneConfig, steps: int, losses: list[float] | None = None) -> list[float]:
    """The factor of each step; of each epoch, where losses are given."""
    schedule = Schedule(config, steps)
    found = []
    for epoch in range(config.epochs):
        for _ in range(steps):
            found.append(schedule.factor)
            schedule.after_step()
        schedule.after_epoch(1.0 if losses is None else losses[epoch])
    return found if losses is None else found[::steps]


def test_cosine_with_warmup_is_torchs() -> None:
    config = recipe(strategy="full", schedule="cosine", warmup=2, epochs=10)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    parts = [
        LinearLR(optimizer, start_factor=0.01, total_iters=10),
        CosineAnnealingLR(optimizer, T_max=40),
    ]
    expected = SequentialLR(optimizer, parts, milestones=[10])
    for factor in factors(config, 5):
        assert factor == pytest.approx(expected.get_last_lr()[0])
        optimizer.step()
        expected.step()


def test_cosine_ends_at_zero_and_step_goes_down_in_tenths() -> None:
    cosine = factors(recipe(strategy="full", schedule="cosine", warmup=0, epochs=4), 25)
    assert cosine[0] == 1
    assert cosine[50] == pytest.approx(0.5)
    assert cosine[-1] < 0.001
    steps = factors(recipe(strategy="full", schedule="step", epochs=6), 2)
    assert steps == pytest.approx([1] * 4 + [0.1] * 4 + [0.01] * 4)
    assert set(factors(recipe(strategy="full", schedule="constant", epochs=3), 2)) == {1}


def test_plateau_follows_the_validation_loss() -> None:
    config = recipe(strategy="full", schedule="plateau", epochs=7)
    losses = [1, 0.9, 0.9, 0.9, 0.9, 0.8, 0.7]
    assert factors(config, 3, losses) == pytest.approx([1, 1, 1, 1, 1, 0.3, 0.3])


@pytest.mark.parametrize("strategy", ["feature-extraction", "full"])
@pytest.mark.parametrize(
    ("optimizer", "kind"),
    [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)],
)
def test_biases_and_normalisation_do_not_decay(
    strategy: Any, optimizer: Any, kind: type, colours: Path, tmp_path: Path
) -> None:
    config = FinetuneConfig(
        data=colours, name="x", strategy=strategy, optimizer=optimizer, weight_decay=0.5, lr=0.1
    ).resolved()
    opened = session(config, filled("resnet18", 3, 32), tmp_path)
    stepper = Stepper(opened, config, make_plan(config, opened.blocks, 0.1))
    assert type(stepper.optimizer) is kind
    names = {id(p): name for name, p in opened.model.named_parameters()}
    decayed = {
        names[id(p)]
        for group in stepper.optimizer.param_groups
        if group["weight_decay"] == 0.5
        for p in group["params"]
    }
    trained = {n for n, p in opened.model.named_parameters() if p.requires_grad}
    assert decayed == {n for n in trained if opened.model.get_parameter(n).dim() > 1}


def test_optimiser_memory_falls_with_frozen_layers(colours: Path, tmp_path: Path) -> None:
    found = {}
    for strategy in ("feature-extraction", "full"):
        config = FinetuneConfig(
            data=colours, name="x", strategy=strategy, optimizer="adamw", image_size=32
        ).resolved()
        opened = session(config, filled("resnet18", 3, 32), tmp_path)
        stepper = Stepper(opened, config, make_plan(config, opened.blocks, 1e-3))
        stepper.begin_epoch(1)
        images, labels = next(iter(opened.train))
        stepper.step(opened.model, images, labels, 1.0)
        trained = sum(p.numel() for p in opened.model.parameters() if p.requires_grad)
        found[strategy] = state_bytes(stepper.optimizer)
        # Two float32 moments of each parameter, and a counter.
        assert found[strategy] == pytest.approx(8 * trained, rel=0.01)
    assert found["feature-extraction"] < found["full"] / 1000


SAMPLES = [Sample(f"{i}.png", label) for i, label in enumerate([0] * 6 + [1] * 2)]


def test_class_weights_make_every_class_count_the_same() -> None:
    weights = class_weights(SAMPLES, 2)
    assert weights.tolist() == pytest.approx([8 / 12, 2])
    assert sum(weights[s.label] for s in SAMPLES) == pytest.approx(len(SAMPLES))
    logits = torch.randn(8, 2)
    labels = torch.tensor([s.label for s in SAMPLES])
    loss = Objective(recipe(balance="class-weights"), SAMPLES, 2, 0, CPU)(logits, labels)
    expected = functional.cross_entropy(logits, labels, weight=weights)
    assert loss == pytest.approx(float(expected))


def test_a_balanced_sampler_draws_rare_classes_as_often() -> None:
    each = class_weights(SAMPLES, 2).double().numpy()
    weights = each[[s.label for s in SAMPLES]]
    views = ViewBatches(8, 4, seed=0, shuffle=True, weights=weights)
    drawn: Counter[int] = Counter()
    for epoch in range(500):
        views.epoch = epoch
        drawn.update(SAMPLES[index].label for batch in views for index, _ in batch)
    assert drawn.total() == 4000
    assert drawn[1] / drawn.total() == pytest.approx(0.5, abs=0.03)
    seeds = [seed for batch in views for _, seed in batch]
    assert len(set(seeds)) == len(seeds), "an image drawn twice is seen in two views"


def test_the_loss_is_cross_entropy_with_smoothing() -> None:
    logits, labels = torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 1])
    objective = Objective(recipe(label_smoothing=0.2), SAMPLES, 3, 0, CPU)
    target = functional.one_hot(labels, 3) * 0.8 + 0.2 / 3
    expected = -(target * logits.log_softmax(1)).sum(1).mean()
    assert objective(logits, labels) == pytest.approx(float(expected))


def test_auxiliary_heads_add_their_share() -> None:
    logits, other, labels = torch.randn(4, 3), torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    objective = Objective(recipe(), SAMPLES, 3, 0.3, CPU)
    parts = [float(functional.cross_entropy(x, labels)) for x in (logits, other, other)]
    expected = parts[0] + 0.3 * (parts[1] + parts[2])
    assert objective((logits, other, other), labels) == pytest.approx(expected)


@pytest.mark.parametrize(("mixup", "cutmix"), [(1.0, 0.0), (0.0, 1.0), (1.0, 1.0)])
def test_mixed_images_have_mixed_labels(mixup: float, cutmix: float) -> None:
    objective = Objective(recipe(mixup=mixup, cutmix=cutmix), SAMPLES, 3, 0, CPU)
    labels = torch.tensor([0, 1, 2])
    # An image that is its class's number everywhere: its mean says how much of each is in it.
    images = labels.float().reshape(3, 1, 1, 1).expand(3, 3, 32, 32)
    torch.manual_seed(0)
    kinds = set()
    for _ in range(20):
        mixed, targets = objective.mixed(images, labels)
        assert targets.shape == (3, 3)
        assert targets.sum(1).tolist() == pytest.approx([1, 1, 1])
        amount = targets @ torch.tensor([0.0, 1.0, 2.0])
        assert mixed.mean((1, 2, 3)).tolist() == pytest.approx(amount.tolist(), abs=1e-4)
        whole = bool((mixed == mixed.round()).all())
        kinds.add("cutmix" if whole else "mixup")
    assert kinds >= ({"mixup"} if mixup else set()) | ({"cutmix"} if cutmix else set())
    plain = Objective(recipe(), SAMPLES, 3, 0, CPU)
    assert plain.mixed(images, labels) == (images, labels)


def test_the_moving_average_is_that_of_the_weights() -> None:
    linear, norm = nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1)
    model = nn.Sequential(linear, norm)
    mean = averaged(model, 0.5)
    values = [1.0, 2.0, 4.0, 8.0]
    expected = values[0]
    for number, value in enumerate(values):
        with torch.no_grad():
            linear.weight.fill_(value)
            norm.get_buffer("running_mean").fill_(value)
        mean.update_parameters(model)
        decay = min(0.5, (1 + number) / (10 + number))
        expected = value if number == 0 else decay * expected + (1 - decay) * value
    assert mean.module.get_parameter("0.weight").item() == pytest.approx(expected)
    assert mean.module.get_buffer("1.running_mean").item() == pytest.approx(expected)
    with torch.no_grad():
        linear.weight.fill_(100)
    assert mean.module.get_parameter("0.weight").item() == pytest.approx(expected), "it is a copy"


def test_the_moving_average_of_what_stays_is_what_stays() -> None:
    model = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5))
    for _ in range(100):
        model(torch.randn(4, 3))
    before = copy.deepcopy(model.state_dict())
    assert before["1.num_batches_tracked"] == 100
    mean = averaged(model, 0.9)
    for _ in range(20):
        mean.update_parameters(model)
    after = mean.module.state_dict()
    assert all(after[name].equal(value) for name, value in before.items())


def test_mixed_precision_on_the_cpu() -> None:
    linear, images = nn.Linear(4, 4), torch.randn(2, 4)
    for name, dtype in (("auto", torch.float32), ("bf16", torch.bfloat16)):
        with MixedPrecision(name, CPU).autocast():  # type: ignore[arg-type]
            assert linear(images).dtype is dtype
    with pytest.raises(DeviceError, match="--precision fp16 needs a GPU"):
        MixedPrecision("fp16", CPU)


def test_gradients_are_clipped(colours: Path, tmp_path: Path) -> None:
    config = FinetuneConfig(
        data=colours, name="x", strategy="full", lr=1.0, clip_grad=0.01, image_size=32
    ).resolved()
    config = replace(config, optimizer="sgd", momentum=0.0, weight_decay=0.0)
    opened = session(config, filled("resnet18", 3, 32), tmp_path)
    stepper = Stepper(opened, config, make_plan(config, opened.blocks, 1.0))
    before = [p.detach().clone() for p in opened.model.parameters()]
    stepper.begin_epoch(1)
    images, labels = next(iter(opened.train))
    stepper.step(opened.model, images, labels, 1.0)
    moved = [
        (p.detach() - b).square().sum()
        for p, b in zip(opened.model.parameters(), before, strict=True)
    ]
    assert math.sqrt(sum(map(float, moved))) == pytest.approx(0.01, rel=0.01)


def test_the_steepest_fall_is_found() -> None:
    rates = [10 ** (-6 + i / 10) for i in range(60)]
    falls_at_a_thousandth = [
        2 - 1.8 / (1 + math.exp(-4 * (math.log10(r) + 3))) + max(0, math.log10(r) + 0.5)
        for r in rates
    ]
    # Smoothing lags behind by some steps.
    assert 5e-4 <= suggest(rates, falls_at_a_thousandth) <= 2e-2
    with pytest.raises(TlserveError, match="no learning rate at which the loss falls"):
        suggest(rates, [1 + r for r in rates])
    with pytest.raises(TlserveError, match="no learning rate"):
        suggest(rates[:3], [3, 2, 1])


def test_finding_a_rate_leaves_the_network_as_it_was(colours: Path, tmp_path: Path) -> None:
    config = FinetuneConfig(
        data=colours, name="x", strategy="full", lr="find", image_size=32, batch_size=8
    ).resolved()
    opened = session(config, filled("resnet18", 3, 32), tmp_path)
    before = copy.deepcopy(opened.model.state_dict())
    rate = find_rate(opened, config)
    assert 1e-6 < rate < 1
    assert all(torch.equal(v, before[k]) for k, v in opened.model.state_dict().items())


def test_weights_that_are_none_draw_every_image_once() -> None:
    views = ViewBatches(9, 4, seed=0, shuffle=True)
    assert sorted(index for batch in views for index, _ in batch) == list(range(9))
    assert [len(batch) for batch in views] == [4, 5], "no batch of one"
    assert np.unique([seed for batch in views for _, seed in batch]).size == 9
