"""The same result each time."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tlserve.errors import UsageError
from tlserve.finetune.config import FinetuneConfig
from tlserve.finetune.deterministic import deterministic
from tlserve.finetune.events import Events
from tlserve.finetune.run import finetune


def test_torch_is_told_and_left_as_it_was() -> None:
    with deterministic(True):
        assert torch.are_deterministic_algorithms_enabled()
    assert not torch.are_deterministic_algorithms_enabled()
    with deterministic(False):
        assert not torch.are_deterministic_algorithms_enabled()


def test_an_operation_that_is_not_deterministic_is_named() -> None:
    # What torch raises, really: this operation has no such algorithm on any device.
    refused = "--deterministic: the network has an operation"
    with pytest.raises(UsageError, match=refused), deterministic(True):
        torch.empty(4, 4).put_(torch.tensor([1, 2]), torch.ones(2), accumulate=False)
    assert not torch.are_deterministic_algorithms_enabled()
    with pytest.raises(RuntimeError, match="another"), deterministic(True):
        raise RuntimeError("another")


def test_two_runs_are_the_same(colours: Path, tmp_path: Path) -> None:
    made = [
        finetune(
            FinetuneConfig(
                data=colours,
                name=name,
                weights="none",
                strategy="full",
                epochs=1,
                image_size=32,
                workers=0,
                deterministic=True,
                output=tmp_path / "models",
                runs=tmp_path / "runs",
            ),
            Events(),
        ).manifest
        for name in ("first", "second")
    ]
    assert made[0].version == made[1].version
    assert made[0].training["deterministic"] is True
