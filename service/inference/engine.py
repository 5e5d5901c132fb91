"""A loaded bundle behind a decode pool and a batcher: from bytes to predictions."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.inference.batcher import Batcher, QueueFullError
from service.observe.metrics import Metrics, batch_sizes
from service.settings import Settings
from tlserve.bundle import Bundle
from tlserve.runtime import Predictor
from tlserve.runtime.backend import BACKENDS, available_processors
from tlserve.runtime.golden import check_golden

_CPU_WARM_UP_SECONDS = 1.0


@dataclass(slots=True)
class Timing:
    """Where the time of one image went, in seconds.

    Attributes:
        queue: Until its decoding began.
        decode: From bytes to pixels.
        preprocess: From pixels to the network's input.
        batch_wait: From then until its batch began.
        inference: How long its batch ran.
        batch: How many images were in its batch.
    """

    queue: float = 0.0
    decode: float = 0.0
    preprocess: float = 0.0
    batch_wait: float = 0.0
    inference: float = 0.0
    batch: int = 0


@dataclass(slots=True)
class Answered:
    """What the model says of one image.

    Attributes:
        probabilities: float64, shape [classes]; they sum to 1.
        timing: Where the time went.
    """

    probabilities: NDArray[np.float64]
    timing: Timing


class Engine:
    """Answers for single images; those that arrive together share a batch.

    Args:
        predictor: The loaded model.
        settings: The limits.
        max_batch: The most images in one batch.
        metrics: Is told about every batch.
    """

    def __init__(
        self, predictor: Predictor, settings: Settings, max_batch: int, metrics: Metrics
    ) -> None:
        self.predictor = predictor
        self.settings = settings
        self.metrics = metrics
        self._inside = 0
        self._most = settings.max_queue + max_batch
        self._decoders = ThreadPoolExecutor(available_processors(), "tlserve-decode")
        self._batcher: Batcher[NDArray[np.float32], NDArray[np.float64]] = Batcher(
            self._run,
            max_batch=max_batch,
            max_queue=settings.max_queue,
            observer=metrics,
        )
        self._batcher.start()

    @classmethod
    def start(cls, settings: Settings) -> Engine:
        """Load the bundle and prove that it answers as it did when it was trained.

        Raises:
            TlserveError: The bundle is damaged, its model cannot run as asked, or it answers
                differently.
        """
        bundle = Bundle.read(settings.bundle)
        running = settings.running(bundle)
        with ThreadPoolExecutor(1) as beside:
            # The files that loading and the golden images do not compare themselves.
            golden = ("golden-image", "golden-logits", "golden-answers")
            used = {BACKENDS[running.backend].kind, *golden}
            others = [n for n, entry in bundle.manifest.files.items() if entry.kind not in used]
            verified = beside.submit(bundle.verify, others)
            predictor = Predictor.load(bundle, running.backend, running.device, running.threads)
            check_golden(bundle, predictor.backend)
            verified.result()
        _warm_up(predictor, running.max_batch)
        engine = cls(predictor, settings, running.max_batch, Metrics(running.max_batch))
        # What start-up made lives as long as the process: the collector need not walk it again.
        gc.collect()
        gc.freeze()
        return engine

    @property
    def ready(self) -> bool:
        """Whether requests will be answered."""
        return self._batcher.alive

    def stop(self) -> None:
        """Finish what was accepted and end the threads."""
        self._decoders.shutdown()
        self._batcher.stop()

    @contextmanager
    def place(self, images: int = 1) -> Iterator[None]:
        """Take a request in, before its body is read: what waits for a decoder waits too.

        Raises:
            QueueFullError: Too many images are inside already.
        """
        if self._inside + images > self._most:
            raise QueueFullError
        self._inside += images
        try:
            yield
        finally:
            self._inside -= images

    async def answer(self, data: bytes) -> Answered:
        """Answer for the bytes of one image file.

        Raises:
            ImageError: The image cannot be used.
        """
        loop = asyncio.get_running_loop()
        tensor = await loop.run_in_executor(self._decoders, self.predictor.preprocess, data)
        return await self.answer_tensor(tensor)

    async def answer_tensor(self, tensor: NDArray[np.float32]) -> Answered:
        """Answer for one preprocessed image: float32, shape [3, height, width]."""
        return Answered(await self._batcher.submit(tensor), Timing())

    def _run(self, tensors: list[NDArray[np.float32]]) -> NDArray[np.float64]:
        return self.predictor.probabilities(np.stack(tensors))


def _warm_up(predictor: Predictor, max_batch: int) -> None:
    """Run each size of batch once: no client waits for what the first run of a size sets up.

    On a GPU that is choosing algorithms and takes seconds. On the CPU it is little more than
    memory, while large batches of a large network take long: there, a second of it is enough.
    """
    height, width = predictor.bundle.manifest.preprocessing.crop
    started = time.perf_counter()
    for size in batch_sizes(max_batch):
        predictor.probabilities(np.zeros((size, 3, height, width), dtype=np.float32))
        spent = time.perf_counter() - started
        # The next size takes about as long as all before it.
        if predictor.backend.device == "cpu" and 2 * spent > _CPU_WARM_UP_SECONDS:
            return
