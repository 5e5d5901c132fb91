"""Batches for training: the same views for the same seed, whoever loads them."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
import torch

from tests.bundles import SPEC
from tests.folders import picture, write_flat, write_parts
from tlserve.data.folder import scan
from tlserve.data.loading import (
    Augmentation,
    ImageDataset,
    ViewBatches,
    loader,
    start_workers,
)


def _epoch(root: Path, *, workers: int, seed: int, epoch: int, flip: bool = True) -> torch.Tensor:
    folder = scan(root)
    dataset = ImageDataset(root, folder.train, SPEC, Augmentation(SPEC, flip=flip, min_scale=0.3))
    views = ViewBatches(len(dataset), 4, seed=seed, shuffle=True)
    views.epoch = epoch
    return torch.cat([images for images, _ in loader(dataset, views, workers)])


def test_views_do_not_depend_on_the_number_of_workers(tmp_path: Path) -> None:
    write_flat(tmp_path, 5)
    alone = _epoch(tmp_path, workers=0, seed=1, epoch=1)
    assert torch.equal(alone, _epoch(tmp_path, workers=2, seed=1, epoch=1))
    assert not torch.equal(alone, _epoch(tmp_path, workers=0, seed=1, epoch=2))
    assert not torch.equal(alone, _epoch(tmp_path, workers=0, seed=2, epoch=1))


def test_augmentation_leaves_the_global_generator_alone() -> None:
    augmentation = Augmentation(SPEC, flip=True, min_scale=0.3)
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    augmentation(picture((10, 20, 30), 0), seed=9)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize(("count", "sizes"), [(9, [4, 5]), (8, [4, 4]), (10, [4, 4, 2]), (1, [1])])
def test_a_last_batch_of_one_is_joined(count: int, sizes: list[int]) -> None:
    views = ViewBatches(count, 4, seed=0, shuffle=True)
    batches = list(views)
    assert [len(b) for b in batches] == sizes
    assert sorted(index for batch in batches for index, _ in batch) == list(range(count))
    assert len(views) == len(sizes)


def test_validation_comes_in_order_and_without_augmentation(tmp_path: Path) -> None:
    folder = scan(write_flat(tmp_path, 3))
    dataset = ImageDataset(tmp_path, folder.train, SPEC)
    views = ViewBatches(len(dataset), 4, seed=0, shuffle=False)
    batches = [labels.tolist() for _, labels in loader(dataset, views, 0)]
    assert [n for batch in batches for n in batch] == [s.label for s in folder.train]
    assert [len(batch) for batch in batches] == [4, 4, 1]


def test_processes_that_are_started_early_give_what_is_asked_for_later(tmp_path: Path) -> None:
    data = write_parts(tmp_path / "data", train=5, val=1)
    dataset = ImageDataset(data, scan(data).train, SPEC)
    views = ViewBatches(len(dataset), 4, seed=0, shuffle=True)
    views.epoch = 1
    batches = loader(dataset, views, 2)
    before = set(psutil.Process().children())
    start_workers(batches)
    started = set(psutil.Process().children()) - before
    assert len(started) == 2
    views.epoch = 3
    labels = torch.cat([label for _, label in batches])
    assert labels.tolist() == [dataset.samples[i].label for batch in views for i, _ in batch]
    assert set(psutil.Process().children()) - before == started
