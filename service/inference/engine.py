"""A loaded bundle behind a scheduler: from bytes to probabilities."""

from __future__ import annotations

import gc
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.inference.places import Places
from service.inference.plan import Plan
from service.inference.scheduler import Scheduler
from service.inference.timing import Timing
from service.observe.metrics import Metrics, batch_sizes
from service.observe.request import note_timing
from service.settings import Settings
from tlserve.bundle import Bundle
from tlserve.preprocess import decode, to_tensor
from tlserve.runtime import Predictor
from tlserve.runtime.backend import BACKENDS
from tlserve.runtime.golden import check_golden
from tlserve.runtime.processors import available_processors
from tlserve.runtime.serving import Running

_CPU_WARM_UP_SECONDS = 1.0

_PATIENCE = 0.1
"""Seconds for which a result may be kept for others; whoever is behind them waits longer."""

Tensor = NDArray[np.float32]
Row = NDArray[np.float64]


@dataclass(slots=True)
class Answered:
    """What the model says of one image.

    Attributes:
        probabilities: float64, shape [classes]; they sum to 1.
        timing: Where the time went.
    """

    probabilities: Row
    timing: Timing


class Engine:
    """Answers for single images; those that arrive together share a batch.

    Args:
        predictor: The loaded model.
        settings: The limits.
        running: How many batches run at once, of how many images.
        metrics: Is told about every batch.
        lone: The same model on all processors, for an image that is alone; where it is ``None``,
            such an image runs as any other.

    Attributes:
        places: Admits images; whoever asks for an answer has a place first.
    """

    def __init__(
        self,
        predictor: Predictor,
        settings: Settings,
        running: Running,
        metrics: Metrics,
        lone: Predictor | None = None,
    ) -> None:
        self.predictor = predictor
        self.settings = settings
        self.running = running
        self.metrics = metrics
        self._lone = lone or predictor
        scheduler: Scheduler[bytes, Tensor, Row] = Scheduler(
            self._prepare, self._run, _plan(running), metrics
        )
        self._scheduler = scheduler
        self.places = Places(
            settings.max_queue + running.max_batch * running.lanes,
            settings.max_wait,
            lambda: scheduler.depth,
            lambda: scheduler.seconds_each,
        )
        metrics.watch(queue_depth=lambda: scheduler.waiting, inside=lambda: self.places.inside)
        self._scheduler.start()

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
        lone = _lone(bundle, running)
        for loaded, largest in ((predictor, running.max_batch), (lone, 1)):
            if loaded is not None:
                _warm_up(loaded, largest)
        metrics = Metrics(
            running.max_batch, model_threads=running.lanes, shared=running.device == "cpu"
        )
        metrics.describe(predictor)
        engine = cls(predictor, settings, running, metrics, lone)
        # What start-up made lives as long as the process: the collector need not walk it again.
        gc.collect()
        gc.freeze()
        return engine

    @property
    def ready(self) -> bool:
        """Whether requests will be answered."""
        return self._scheduler.alive

    def stop(self) -> None:
        """Finish what was accepted and end the threads."""
        self._scheduler.stop()

    async def answer(self, data: bytes, client: str = "") -> Answered:
        """Answer for the bytes of one image file, in its client's turn.

        Raises:
            ImageError: The image cannot be used.
        """
        return self._observed(*await self._scheduler.submit(data, client))

    async def answer_tensor(self, tensor: Tensor, client: str = "") -> Answered:
        """Answer for one preprocessed image: float32, shape [3, height, width]."""
        return self._observed(*await self._scheduler.submit_prepared(tensor, client))

    def _observed(self, probabilities: Row, timing: Timing) -> Answered:
        self.metrics.answered_image(probabilities, timing.delivery)
        note_timing(timing)
        return Answered(probabilities, timing)

    def _prepare(self, data: bytes, timing: Timing) -> Tensor:
        spec = self.predictor.bundle.manifest.preprocessing
        started = time.perf_counter()
        image = decode(data, spec)
        decoded = time.perf_counter()
        tensor = to_tensor(image, spec)
        timing.decode = decoded - started
        timing.preprocess = time.perf_counter() - decoded
        return tensor

    def _run(self, tensors: list[Tensor], alone: bool) -> Row:
        predictor = self._lone if alone else self.predictor
        batch = tensors[0][None] if len(tensors) == 1 else np.stack(tensors)
        return predictor.probabilities(batch)


def _plan(running: Running) -> Plan:
    processors = available_processors()
    if running.device == "cpu":
        # No more threads than processors: they would empty each other's caches.
        return Plan(processors, running.lanes, running.max_batch, _PATIENCE)
    # Threads that wait for the device leave the processors to those that decode.
    return Plan(processors + running.lanes, running.lanes, running.max_batch, patience=0)


def _lone(bundle: Bundle, running: Running) -> Predictor | None:
    """Load the model once more, for all processors, whose threads wait for each other in a loop.

    Where a library's threads are the process's, it cannot be had for two numbers of them.
    """
    if running.device != "cpu" or available_processors() == 1:
        return None
    if not BACKENDS[running.backend].library.own_threads:
        return None
    predictor = Predictor.load(bundle, running.backend, running.device)
    check_golden(bundle, predictor.backend)
    return predictor


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
