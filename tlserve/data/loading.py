"""From files to batches of tensors, for torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision.transforms import v2

from tlserve.bundle.manifest import Preprocessing
from tlserve.data.folder import Sample
from tlserve.data.image_cache import KeptImages
from tlserve.data.reduce import reduced, reduced_edges
from tlserve.data.signals import left_to_the_main_process, put_off
from tlserve.preprocess import decode, decoded_edges, normalised, resize_and_crop, to_tensor

View = tuple[int, int]
"""The index of an image, and the seed of the augmented view of it that is wanted."""

Batch = tuple[Tensor, Tensor]
"""Images, float32 [N, 3, height, width], and labels, int64 [N]; of one image, without N."""

Inputs = Tensor | tuple[Tensor, ...]
"""What a network or a part of it takes: images, or tensors of each image."""

_SEED_LIMIT = 2**63 - 1

_POLICIES = {"randaugment": v2.RandAugment, "trivialaugment": v2.TrivialAugmentWide}


class Augmentation:
    """Resize, random crop, flip and a policy of more, before the weights' own preprocessing.

    The policies: RandAugment, Cubuk et al. 2020, https://arxiv.org/abs/1909.13719; TrivialAugment,
    Müller and Hutter 2021, https://arxiv.org/abs/2103.10158.

    The result is a square as large as the preprocessing's resize target, so that its resize changes
    nothing and its centre crop and normalisation do the rest.
    """

    def __init__(
        self, spec: Preprocessing, *, flip: bool, min_scale: float, policy: str = "none"
    ) -> None:
        side = spec.resize[0] if len(spec.resize) == 1 else spec.resize
        steps: list[torch.nn.Module] = [
            v2.RandomResizedCrop(side, scale=(min_scale, 1.0), antialias=True)
        ]
        if flip:
            steps.append(v2.RandomHorizontalFlip())
        if policy != "none":
            steps.append(_POLICIES[policy](interpolation=v2.InterpolationMode.BILINEAR))
        self._transform = v2.Compose(steps)

    def __call__(self, image: Image.Image, seed: int) -> Image.Image:
        """Give the view of an image that a seed stands for, whichever process asks."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            view: Image.Image = self._transform(image)
            return view


class ImageDataset(Dataset[Batch]):
    """Labelled images of a folder, preprocessed; augmented where an augmentation is given.

    Attributes:
        kept: What :meth:`fixed` gives for each image, where that is kept. Worker processes see what
            was there when their loader was first asked for batches.
    """

    def __init__(
        self,
        root: Path,
        samples: Sequence[Sample],
        spec: Preprocessing,
        augmentation: Augmentation | None = None,
        *,
        short_edge: int | None = None,
    ) -> None:
        """Use the images of a folder.

        Args:
            root: The data folder.
            samples: Which of its images.
            spec: The preprocessing.
            augmentation: What makes views of them.
            short_edge: Images whose shorter edge has more pixels are reduced to it before they are
                augmented; ``None``: none are.
        """
        self.root = root
        self.samples = samples
        self.spec = spec
        self.augmentation = augmentation
        self.short_edge = short_edge
        self.kept: KeptImages | None = None

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, view: View) -> Batch:
        index, seed = view
        image = self.fixed(index) if self.kept is None else self.kept[index]
        if self.augmentation is None:
            pixels = normalised(image, self.spec)
        else:
            pixels = to_tensor(self.augmentation(image, seed), self.spec)
        return torch.from_numpy(pixels), torch.tensor(self.samples[index].label)

    def fixed(self, index: int) -> Image.Image:
        """Give what is the same each time an image is loaded.

        Returns:
            RGB. To be augmented: decoded, and reduced if it is large; else resized and cropped.
        """
        image = decode((self.root / self.samples[index].path).read_bytes(), self.spec)
        if self.augmentation is None:
            return resize_and_crop(image, self.spec)
        return image if self.short_edge is None else reduced(image, self.short_edge)

    def fixed_bytes(self, index: int) -> int:
        """Tell how many bytes that has, without decoding the image."""
        if self.augmentation is None:
            edges = self.spec.crop
        else:
            edges = decoded_edges(self.root / self.samples[index].path, self.spec)
            if self.short_edge is not None:
                edges = reduced_edges(edges, self.short_edge)
        return 3 * edges[0] * edges[1]


class ViewBatches(Sampler[list[View]]):
    """Batches of views: shuffled anew each epoch, and the same for the same seed and epoch.

    Where images have weights, an epoch draws as many as there are with replacement, each with a
    probability in proportion to its weight.

    A last batch that gives a process one image is joined to the one before it: batch normalisation
    cannot train on one.

    Attributes:
        epoch: Which epoch's views come next.
        start: So many of its first batches are left out.
        share: Of several processes, this one's number and their count. Where batches are shuffled
            each process gets its share of each batch, else every ``count``-th batch.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        *,
        seed: int,
        shuffle: bool,
        weights: NDArray[np.float64] | None = None,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        self.count = count
        self.weights = None if weights is None else weights / weights.sum()
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.share = share
        self.epoch = 0
        self.start = 0

    def __iter__(self) -> Iterator[list[View]]:
        generator = np.random.default_rng((self.seed, self.epoch))
        if self.weights is not None:
            order = generator.choice(self.count, size=self.count, p=self.weights)
        else:
            order = generator.permutation(self.count) if self.shuffle else np.arange(self.count)
        # The seeds belong to the images, whatever their order; drawn several times, an image needs
        # several.
        seeds = np.random.default_rng((self.seed, self.epoch, 1)).integers(
            _SEED_LIMIT, size=self.count
        )
        if self.weights is None:
            seeds = seeds[order]
        views = [(int(index), int(seed)) for index, seed in zip(order, seeds, strict=True)]
        rank, ranks = self.share
        bounds = self._bounds()[self.start :]
        if not self.shuffle:
            bounds = bounds[rank::ranks]
        for start, stop in bounds:
            yield views[start:stop][rank::ranks] if self.shuffle else views[start:stop]

    def sizes(self) -> list[int]:
        """Give the sizes of the batches that come next, the shares of all processes together."""
        return [stop - start for start, stop in self._bounds()[self.start :]]

    def __len__(self) -> int:
        """Count the batches of a whole epoch."""
        return len(self._bounds())

    def _bounds(self) -> list[tuple[int, int]]:
        starts = list(range(0, self.count, self.batch_size))
        fewest = 2 * self.share[1]
        if self.shuffle and len(starts) > 1 and self.count - starts[-1] < fewest:
            starts.pop()
        return list(zip(starts, [*starts[1:], self.count], strict=True))


def loader(dataset: ImageDataset, batches: ViewBatches, workers: int) -> DataLoader[Batch]:
    """Load batches in worker processes, which stay from epoch to epoch.

    The process's random numbers are left alone: what training draws from them must not depend on
    how often a loader was begun.
    """
    return _Loader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=left_to_the_main_process() if workers else None,
        generator=torch.Generator(),
    )


def start_workers(batches: DataLoader[Batch]) -> None:
    """Start a loader's processes now, before this one has much memory that they would hold on to.

    What a process holds when it forks stays in memory for the child once the parent has changed it.
    """
    if batches.num_workers:
        iter(batches)


class _Loader(DataLoader[Batch]):
    def __iter__(self) -> Any:
        # Half-made, it would end in an exception that cannot be caught, or leave processes behind.
        with put_off():
            return super().__iter__()
