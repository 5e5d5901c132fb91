"""How many images a step has."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.finetune.configs import short_run
from tests.finetune.test_features import Recorder
from tests.networks import filled
from tests.sessions import session
from tlserve.data.folder import scan
from tlserve.data.split import Split, split
from tlserve.errors import TlserveError, UsageError
from tlserve.finetune.batch_size import (
    evaluation_batch_size,
    largest_batch_size,
    out_of_memory,
    training_step,
    unchanged,
    with_batch_size,
)
from tlserve.finetune.config import FinetuneConfig
from tlserve.finetune.evaluate import evaluate
from tlserve.finetune.events import Events
from tlserve.finetune.run import finetune
from tlserve.zoo.presets import preset, with_image_size

CPU = torch.device("cpu")
SPEC = with_image_size(preset("resnet18"), 32)


@pytest.fixture
def config(colours: Path, tmp_path: Path) -> FinetuneConfig:
    return short_run(colours, tmp_path, batch_size="auto")


def parts(config: FinetuneConfig) -> Split:
    return split(scan(config.data), config.val_fraction, config.seed)


@pytest.mark.parametrize(
    ("limit", "most", "expected"),
    [
        (1000, 1024, 512),  # 512 and its margin are 576
        (575, 1024, 256),
        (576, 1024, 512),
        (10**6, 1024, 1024),
        (10**6, 100, 64),
        (10**6, 2, 2),
        (3, 1024, 2),
        (2, 1024, None),
    ],
)
def test_the_largest_power_of_two_that_fits_with_a_margin(
    limit: int, most: int, expected: int | None
) -> None:
    tried: list[int] = []

    def step(images: int) -> None:
        tried.append(images)
        if images > limit:
            raise torch.OutOfMemoryError(f"{images} images")

    assert largest_batch_size(step, most) == expected
    assert tried == sorted(tried), "no size is tried after one that did not fit"
    assert sum(images > limit for images in tried) <= 1


def test_another_error_of_a_step_is_not_taken_for_a_lack_of_memory() -> None:
    def step(images: int) -> None:
        raise RuntimeError("shapes")

    with pytest.raises(RuntimeError, match="shapes"):
        largest_batch_size(step, 64)


@pytest.mark.parametrize("strategy", ["full", "partial", "gradual", "auto"])
@pytest.mark.parametrize("fails", [False, True])
def test_trying_leaves_network_and_random_numbers_as_they_were(
    config: FinetuneConfig, strategy: str, fails: bool
) -> None:
    config = replace(config, strategy=strategy, ema=0.9, mixup=0.2)  # type: ignore[arg-type]
    model = filled("resnet18", 3, 32).train()
    model.get_submodule("layer1").eval()
    model.get_parameter("conv1.weight").requires_grad_(False)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    generator = torch.get_rng_state()
    moved = []
    try:
        with unchanged(model, CPU):
            step = training_step(model, config, parts(config), SPEC, CPU)
            step(4)
            moved = [k for k, v in model.state_dict().items() if not torch.equal(v, state[k])]
            assert not torch.equal(torch.get_rng_state(), generator)
            if fails:
                raise torch.OutOfMemoryError
    except torch.OutOfMemoryError:
        assert fails
    assert "fc.weight" in moved
    assert ("bn1.running_mean" in moved) == (strategy != "partial")
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert [module.training for module in model.modules()] == modes
    assert [n for n, p in model.named_parameters() if not p.requires_grad] == ["conv1.weight"]
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), generator)


def test_on_the_cpu_auto_is_a_number_that_is_said_and_recorded(config: FinetuneConfig) -> None:
    events = Recorder()
    bundle = finetune(config, events)
    assert any("--batch-size auto: 32" in message for message in events.messages)
    assert bundle.manifest.training["batch_size"] == 32
    written = json.loads((config.runs / "x" / "run.json").read_text())
    assert written["settings"]["batch_size"] == 32, "a run that goes on does not look again"
    given = finetune(replace(config, name="y", batch_size=32), events)
    assert given.manifest.version == bundle.manifest.version


def test_a_number_is_left_alone(config: FinetuneConfig) -> None:
    config = replace(config, batch_size=7)
    model = filled("resnet18", 3, 32)
    assert with_batch_size(model, config, parts(config), SPEC, CPU, Events()) is config


def test_running_out_of_memory_says_what_needs_less(
    config: FinetuneConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = out_of_memory(replace(config, batch_size=48), SPEC)
    assert "48 images of 32 x 32 pixels" in error.message
    for way in ("--batch-size 24", "--batch-size auto", "--image-size", "--precision bf16"):
        assert way in error.hint
    assert "--batch-size" not in out_of_memory(replace(config, batch_size=1), SPEC).hint

    def exhausted(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("tlserve.finetune.loop.evaluate", exhausted)
    with pytest.raises(TlserveError, match="--batch-size 4, --batch-size auto"):
        finetune(replace(config, batch_size=8), Events())


def test_evaluation_takes_larger_batches_on_a_gpu() -> None:
    gpu = torch.device("cuda")
    sizes = {size: evaluation_batch_size(size, gpu) for size in (2, 32, 64, 100, 512)}
    assert sizes == {2: 8, 32: 128, 64: 256, 100: 256, 512: 512}
    assert evaluation_batch_size(32, CPU) == 32


def test_the_size_of_its_batches_does_not_change_an_evaluation(
    config: FinetuneConfig, tmp_path: Path
) -> None:
    found = [
        evaluate(run.model, run.val, run.device, Events())
        for size in (2, 12)
        for run in [session(replace(config, batch_size=size), filled("resnet18", 3, 32), tmp_path)]
    ]
    assert found[0].correct == found[1].correct
    assert found[0].loss == pytest.approx(found[1].loss, rel=1e-5)


@pytest.mark.parametrize("size", [0, -2])
def test_a_size_below_one_is_refused(config: FinetuneConfig, size: int) -> None:
    with pytest.raises(UsageError, match=f"--batch-size {size}: it must be at least 1, or auto"):
        replace(config, batch_size=size).resolved()
