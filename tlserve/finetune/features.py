"""What frozen blocks make of the images, computed once and kept on disk.

A frozen part gives the same for the same view of an image, in each epoch and in each run. Its
results lie in memory-mapped NumPy files under a key that covers everything they depend on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tlserve.data.disk_cache import DiskCache, reserve
from tlserve.data.loading import Batch, ViewBatches
from tlserve.errors import TlserveError
from tlserve.finetune.config import CacheMode
from tlserve.finetune.evaluate import on_device
from tlserve.finetune.events import Events
from tlserve.finetune.ranks import ALONE, Ranks

_FORMAT = 2


class CannotKeepError(TlserveError):
    """There is no room for results, or they cannot be written with the precision."""


_FAILURES = (CannotKeepError, OSError)


@dataclass(frozen=True)
class Features:
    """The results of a frozen part for one view of the images.

    Attributes:
        arrays: For each tensor between the parts, float16 or float32 [images, …].
    """

    arrays: tuple[NDArray[Any], ...]

    def batch(self, images: Sequence[int]) -> tuple[Tensor, ...]:
        """Give those of some images, float32 [N, …] each."""
        index = np.asarray(images)
        return tuple(torch.from_numpy(a[index].astype(np.float32)) for a in self.arrays)


@dataclass(frozen=True)
class Shapes:
    """How large a frozen part's results are.

    Attributes:
        shapes: Of each tensor, for one image.
    """

    shapes: tuple[tuple[int, ...], ...]

    @property
    def numbers(self) -> int:
        """How many numbers an image has."""
        return sum(int(np.prod(shape)) for shape in self.shapes)


def shapes_of(frozen: nn.Module, crop: tuple[int, int], device: torch.device) -> Shapes | None:
    """Find out by a forward pass; ``None`` where something other than tensors comes out."""
    images = torch.zeros(2, 3, *crop)
    with torch.inference_mode():
        results = frozen(*on_device(images, device))
    if not all(isinstance(r, Tensor) and len(r) == len(images) for r in results):
        return None
    return Shapes(tuple(tuple(r.shape[1:]) for r in results))


class FeatureCache:
    """A folder of results, with a budget."""

    def __init__(self, disk: DiskCache, mode: CacheMode) -> None:
        """Use a folder.

        Args:
            disk: The folder and its budget.
            mode: In which precision to keep them; ``auto``: float32 where it fits, else float16.
        """
        self.folder = disk.folder
        self.mode = mode
        self._disk = disk

    def precision(self, numbers: int) -> np.dtype[Any] | None:
        """Choose one for so many numbers; ``None``: there is no room."""
        room = self.room()
        return next((d for d in self._dtypes() if numbers * d.itemsize <= room), None)

    def room(self) -> int:
        """Give the bytes that results may take: the budget, or what the disk has."""
        return self._disk.room()

    def find(self, facts: Mapping[str, Any]) -> Features | None:
        """Open the results that were kept for some facts."""
        for dtype in self._dtypes():
            place = self._disk.find(_key(facts, dtype))
            if place is not None:
                return _open(place)
        return None

    def keep(
        self,
        facts: Mapping[str, Any],
        dtype: np.dtype[Any],
        frozen: nn.Module,
        shapes: Shapes,
        batches: DataLoader[Batch],
        device: torch.device,
        events: Events,
        ranks: Ranks = ALONE,
    ) -> Features:
        """Compute the results of one view and keep them.

        Args:
            facts: Everything that they depend on.
            dtype: The precision.
            frozen: What computes them, in evaluation mode.
            shapes: Theirs.
            batches: The view, in the order of the images.
            device: Where to compute.
            events: Told what happens.
            ranks: The processes that share the work; each machine has files of its own.

        Raises:
            CannotKeepError: A result is too large for float16.
            OSError: The disk refused.
        """
        count = len(batches.dataset)  # type: ignore[arg-type]

        def create(folder: Path) -> None:
            for number, shape in enumerate(shapes.shapes):
                file = np.lib.format.open_memmap(
                    folder / f"{number}.npy", "w+", dtype, (count, *shape)
                )
                reserve(folder / f"{number}.npy", file.offset + file.nbytes)

        def fill(folder: Path) -> None:
            files = [np.load(path, mmap_mode="r+") for path in _files(folder)]
            events.begin("frozen blocks", count)
            _fill(files, frozen, batches, device, events)
            events.end()
            for file in files:
                file.flush()

        size = shapes.numbers * count * dtype.itemsize
        key = _key(facts, dtype)
        _keep_together(self._disk, key, size, create, fill, ranks)
        place = self._disk.find(key)
        if place is None:
            raise CannotKeepError(f"{self.folder} has lost what was written to it.")
        return _open(place)

    def _dtypes(self) -> list[np.dtype[Any]]:
        names = {"auto": ["float32", "float16"], "off": []}.get(self.mode, [self.mode])
        return [np.dtype(name) for name in names]


def _key(facts: Mapping[str, Any], dtype: np.dtype[Any]) -> dict[str, Any]:
    return {"format": _FORMAT, "dtype": dtype.name, **facts}


def _files(place: Path) -> list[Path]:
    return sorted(place.glob("*.npy"), key=lambda path: int(path.stem))


def _open(place: Path) -> Features:
    return Features(tuple(np.load(path, mmap_mode="r") for path in _files(place)))


def _keep_together(
    disk: DiskCache,
    key: Mapping[str, Any],
    size: int,
    create: Callable[[Path], None],
    fill: Callable[[Path], None],
    ranks: Ranks,
) -> None:
    """Let one process of each machine make an entry, and all of them fill it."""
    begun = False

    def share(folder: Path | None) -> None:
        nonlocal begun
        begun = True
        ranks.together(lambda: None if folder is None else create(folder), _FAILURES)
        places = ranks.gather((ranks.node, folder))
        (mine,) = [place for node, place in places if node == ranks.node and place is not None]
        ranks.together(lambda: fill(mine), _FAILURES)

    def work() -> None:
        if ranks.local_rank:
            share(None)
            return
        try:
            disk.keep(key, size, share)
        except _FAILURES as error:
            if not begun:
                _fail_together(error, ranks)
            raise

    ranks.together(work, _FAILURES)


def _fail_together(error: Exception, ranks: Ranks) -> None:
    """Take part in what the other processes wait for, with an error."""

    def fail() -> None:
        raise error

    ranks.together(fail, _FAILURES)


def _fill(
    files: Sequence[NDArray[Any]],
    frozen: nn.Module,
    batches: DataLoader[Batch],
    device: torch.device,
    events: Events,
) -> None:
    views = batches.batch_sampler
    assert isinstance(views, ViewBatches)  # noqa: S101 - there are no others
    rank, ranks = views.share
    with torch.inference_mode():
        for number, (images, labels) in enumerate(batches):
            start = (rank + number * ranks) * views.batch_size
            stop = start + len(labels)
            for file, result in zip(files, frozen(*on_device(images, device)), strict=True):
                kept = result.float().cpu().numpy()
                # Written so that it is false for what is no number, too.
                if not np.abs(kept).max(initial=0) <= np.finfo(file.dtype).max:
                    raise CannotKeepError(f"a result is too large for {file.dtype}.")
                file[start:stop] = kept
            events.advance(len(labels) * ranks)


def hash_of_state(frozen: nn.Module) -> str:
    """Hash the parameters and buffers of a part."""
    digest = hashlib.sha256()
    for name, tensor in sorted(frozen.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
