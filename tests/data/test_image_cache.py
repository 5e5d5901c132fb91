"""Decoded images that are kept: the same pixels, in one file."""

from __future__ import annotations

import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from tests.bundles import SPEC
from tests.folders import write_flat
from tests.images import encoded, noise
from tlserve.bundle.manifest import Decoding, Preprocessing
from tlserve.data.folder import Sample, scan
from tlserve.data.image_cache import KeptImages, write_images
from tlserve.data.loading import Augmentation, ImageDataset, ViewBatches, loader
from tlserve.data.reduce import reduced, reduced_edges, sufficient_edge
from tlserve.data.threads import in_threads

WIDE = Preprocessing(
    resize=(64,), interpolation="bilinear", crop=(48, 48), mean=(0.5,) * 3, std=(0.25,) * 3
)


def _kept(dataset: ImageDataset, home: Path) -> KeptImages:
    home.mkdir()
    write_images(home, len(dataset), dataset.fixed, threads=2, advance=lambda: None)
    return KeptImages(home)


def _batches(dataset: ImageDataset, workers: int) -> torch.Tensor:
    views = ViewBatches(len(dataset), 4, seed=1, shuffle=True)
    return torch.cat([images for images, _ in loader(dataset, views, workers)])


@pytest.mark.parametrize("augment", [False, True])
@pytest.mark.parametrize("workers", [0, 2])
def test_kept_images_give_the_same_tensors_bit_for_bit(
    augment: bool, workers: int, tmp_path: Path
) -> None:
    folder = scan(write_flat(tmp_path / "data", 5))
    augmentation = Augmentation(SPEC, flip=True, min_scale=0.3) if augment else None
    dataset = ImageDataset(folder.root, folder.train, SPEC, augmentation)
    expected = _batches(dataset, 0)
    dataset.kept = _kept(dataset, tmp_path / "kept")
    # The files are not read any more.
    for sample in folder.train:
        (folder.root / sample.path).unlink()
    assert torch.equal(_batches(dataset, workers), expected)


def test_images_of_every_size_and_mode_are_what_was_decoded(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    files = {
        "a.jpg": encoded(noise(61, 40), "JPEG", exif=exif),
        "b.png": encoded(noise(300, 1).convert("RGBA")),
        "c.png": encoded(noise(1, 1).convert("L")),
        "d.jpg": encoded(noise(700, 500), "JPEG"),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    samples = [Sample(name, 0) for name in files]
    draft = SPEC.model_copy(update={"decoding": Decoding(jpeg_draft=2)})
    for number, spec in enumerate((SPEC, draft)):
        dataset = ImageDataset(
            tmp_path, samples, spec, Augmentation(spec, flip=True, min_scale=0.3)
        )
        kept = _kept(dataset, tmp_path / f"kept{number}")
        assert len(kept) == 4
        for index in range(4):
            image = dataset.fixed(index)
            assert np.array_equal(np.asarray(kept[index]), np.asarray(image))
            assert dataset.fixed_bytes(index) == 3 * image.width * image.height


def test_a_copy_for_another_process_is_small(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(noise(500, 500)))
    dataset = ImageDataset(tmp_path, [Sample("a.png", 0)], SPEC)
    dataset.augmentation = Augmentation(SPEC, flip=True, min_scale=0.3)
    kept = _kept(dataset, tmp_path / "kept")
    pickled = pickle.dumps(kept)
    assert len(pickled) < 1000
    assert np.array_equal(np.asarray(pickle.loads(pickled)[0]), np.asarray(kept[0]))  # noqa: S301


def test_reading_them_takes_no_memory_of_the_process(tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / f"{number}.png").write_bytes(encoded(noise(600, 600, number)))
    samples = [Sample(f"{number}.png", 0) for number in range(20)]
    dataset = ImageDataset(tmp_path, samples, SPEC, Augmentation(SPEC, flip=True, min_scale=0.3))
    kept = _kept(dataset, tmp_path / "kept")
    kept[0]
    before = _anonymous()
    for number in range(20):
        kept[number]
    # They have 21 MB; those of one image may not have been given back.
    assert _anonymous() - before < 5e6


def _anonymous() -> int:
    """Give the bytes of memory of this process that no file stands behind."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Anonymous:"))


def test_results_of_threads_come_in_order_and_do_not_pile_up() -> None:
    begun: list[int] = []

    def square(number: int) -> int:
        begun.append(number)
        return number * number

    results = in_threads(square, 1000, 2)
    assert next(results) == 0
    assert len(begun) < 50
    assert list(results) == [n * n for n in range(1, 1000)]


@pytest.mark.parametrize("size", [(300, 200), (200, 300), (80, 80), (1000, 90)])
@pytest.mark.parametrize("min_scale", [0.1, 0.35, 1.0])
def test_no_crop_of_a_reduced_image_is_enlarged(size: tuple[int, int], min_scale: float) -> None:
    edge = sufficient_edge(WIDE, min_scale)
    image = reduced(noise(*size), edge)
    assert min(image.size) == min(edge, *size)
    assert image.size == reduced_edges(size, edge)
    if min(size) < edge:
        return
    crop = v2.RandomResizedCrop(64, scale=(min_scale, 1.0))
    torch.manual_seed(0)
    for _ in range(200):
        made = crop.make_params([v2.functional.pil_to_tensor(image)])
        # The edges are rounded to whole pixels.
        assert min(made["height"], made["width"]) >= 64 - 1


def test_a_small_image_is_left_as_it_is() -> None:
    image = noise(70, 90)
    assert reduced(image, 70) is image
    assert reduced(image, 69).size == (69, math.floor(90 * 69 / 70 + 0.5))


def test_a_reduced_image_looks_as_before(photographs: list[Path]) -> None:
    image = Image.open(photographs[0]).convert("RGB")
    small = reduced(image, 150)
    one, other = (
        np.asarray(i.resize((64, 64), Image.Resampling.BILINEAR), np.float64)
        for i in (small, image)
    )
    assert 0 < np.abs(one - other).mean() < 2, "views differ, a little"
