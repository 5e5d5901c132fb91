"""What models give for the validation images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tlserve.bundle import Bundle
from tlserve.data.folder import Sample
from tlserve.preprocess import preprocess
from tlserve.runtime.backend import Backend
from tlserve.runtime.processors import available_processors

_CHUNK = 32


@dataclass(frozen=True)
class ValidationLogits:
    """What a model gives for the validation images: float32 [N, classes], labels int64 [N]."""

    logits: NDArray[np.float32]
    labels: NDArray[np.int64]
    paths: tuple[str, ...]

    @property
    def accuracy(self) -> float:
        """The share of images whose own class has the largest logit."""
        return float((self.logits.argmax(1) == self.labels).mean())


def run_validation(
    bundle: Bundle,
    root: Path,
    samples: Sequence[Sample],
    backends: dict[str, Backend],
    advance: Callable[[int], None],
) -> dict[str, ValidationLogits]:
    """Run several backends over the validation images, each image decoded once."""
    rows: dict[str, list[NDArray[np.float32]]] = {name: [] for name in backends}
    for batch in preprocessed(bundle, root, samples):
        for name, backend in backends.items():
            rows[name].append(backend.logits(batch))
        advance(len(batch))
    labels = np.array([s.label for s in samples], dtype=np.int64)
    paths = tuple(s.path for s in samples)
    return {
        name: ValidationLogits(np.concatenate(parts), labels, paths) for name, parts in rows.items()
    }


def preprocessed(
    bundle: Bundle, root: Path, samples: Sequence[Sample]
) -> Iterator[NDArray[np.float32]]:
    """Decode and preprocess images: float32 [N, 3, height, width], N <= 32, in their order."""
    spec = bundle.manifest.preprocessing
    with ThreadPoolExecutor(available_processors()) as pool:
        for start in range(0, len(samples), _CHUNK):
            chunk = samples[start : start + _CHUNK]
            tensors = pool.map(lambda s: preprocess((root / s.path).read_bytes(), spec), chunk)
            yield np.stack(list(tensors))
