"""What the service counts, and ``/metrics`` shows; docs/observability.md describes each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial

import numpy as np
from numpy.typing import NDArray
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
)
from prometheus_client import generate_latest as exposition_of
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

import tlserve
from service.observe import logs
from service.observe.snapshots import Snapshots
from service.observe.verdict import BOUNDS, By, Load, Verdict, verdict
from service.observe.window import Window
from tlserve.runtime import Predictor
from tlserve.runtime.processors import available_processors

_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_CONFIDENCE = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)

MOST_CLASSES = 1000
"""Classes with a series of their own; those behind them share one."""

OTHER_CLASSES = "(other)"


class Metrics:
    """The service's Prometheus metrics.

    Args:
        max_batch: The largest batch, which sets the buckets of the batch sizes.
        registry: Where to register them; the process's own by default.
        preparing_threads: How many threads decode; by default one a processor.
        model_threads: How many batches can run at once.
        shared: Whether those that decode run the batches, too.
    """

    def __init__(
        self,
        max_batch: int,
        registry: CollectorRegistry | None = None,
        *,
        preparing_threads: int | None = None,
        model_threads: int = 1,
        shared: bool = False,
    ) -> None:
        # A second series for each of them, to say when the process began: that is one of the
        # process's own metrics already.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = registry = registry or REGISTRY
        self._threads = (preparing_threads or available_processors(), model_threads)
        self._shared = shared
        self._snapshots: Snapshots | None = None
        self._window = Window()
        self._classes: Sequence[str] = ()
        histogram = partial(Histogram, buckets=_SECONDS, registry=registry)
        counter = partial(Counter, registry=registry)
        gauge = partial(Gauge, registry=registry)
        self._requests = histogram(
            "tlserve_request_seconds",
            "Time from a request's headers to its answer, problems included.",
        )
        self._queue_wait = histogram(
            "tlserve_queue_wait_seconds", "Time that an image waited until its decoding began."
        )
        self._decode = histogram("tlserve_decode_seconds", "Time from an image's bytes to pixels.")
        self._preprocess = histogram(
            "tlserve_preprocess_seconds", "Time from an image's pixels to the network's input."
        )
        self._batch_wait = histogram(
            "tlserve_batch_wait_seconds", "Time that a preprocessed image waited for its batch."
        )
        self._inference = histogram(
            "tlserve_inference_seconds", "Time that the model took for one batch."
        )
        self._delivery = histogram(
            "tlserve_delivery_seconds",
            "Time from the end of an image's batch to its answer's turn.",
        )
        self._batch_size = histogram(
            "tlserve_batch_size", "Images that ran as one batch.", buckets=batch_sizes(max_batch)
        )
        self._confidence = histogram(
            "tlserve_confidence", "Probability of the most probable class.", buckets=_CONFIDENCE
        )
        by_reason = counter(
            "tlserve_rejected",
            "Requests that were answered with a problem, by its name.",
            ["reason"],
        )
        by_face = counter(
            "tlserve_requests",
            "Requests by the first part of a known path, and status.",
            ["face", "status"],
        )
        by_class = counter(
            "tlserve_predictions", "Answers by their most probable class.", ["class"]
        )
        # Finding a series by its labels takes longer than counting in it.
        self._by_face = cache(lambda face, status: by_face.labels(face, status))
        self._by_class = cache(lambda label: by_class.labels(label))
        self._by_reason = cache(lambda reason: by_reason.labels(reason))
        self._queue_depth = gauge(
            "tlserve_queue_depth", "Images that wait to be decoded, or for their batch."
        )
        self._inside = gauge("tlserve_requests_inside", "Images that were taken in, not answered.")
        self._model = gauge(
            "tlserve_model_info",
            "Always 1; its labels say what is served, and by what.",
            ["name", "version", "backend", "device", "precision", "tlserve"],
        )
        bound = gauge(
            "tlserve_bound", "1 for what limits the service, over about the last minute.", ["by"]
        )
        for by in BOUNDS:
            bound.labels(by).set_function(partial(self._is_bound, by))
        busy = gauge(
            "tlserve_busy_ratio",
            "Share of a stage's threads' time that was taken, over about the last minute.",
            ["stage"],
        )
        busy.labels("decode").set_function(lambda: self.verdict().preparing)
        busy.labels("model").set_function(lambda: self.verdict().inference)
        registry.register(_LostLines())

    def describe(self, predictor: Predictor) -> None:
        """Say what is served; every class then has its series from the start."""
        manifest, backend = predictor.bundle.manifest, predictor.backend
        self._classes = manifest.classes
        for index in range(min(len(self._classes), MOST_CLASSES + 1)):
            self._by_class(self._class(index))
        self._model.labels(
            manifest.name,
            manifest.version,
            backend.name,
            backend.device,
            backend.precision,
            tlserve.__version__,
        ).set(1)

    def watch(self, *, queue_depth: Callable[[], float], inside: Callable[[], float]) -> None:
        """Ask these, whenever the metrics are read, how much waits and how much is inside."""
        self._queue_depth.set_function(queue_depth)
        self._inside.set_function(inside)

    def prepared(self, queue: float, decode: float, preprocess: float) -> None:
        """Note where the time of one image went, in seconds, until it could be batched."""
        self._queue_wait.observe(queue)
        self._decode.observe(decode)
        self._preprocess.observe(preprocess)
        self._window.add(preparing=decode + preprocess)

    def batch_taken(self, waits: Sequence[float]) -> None:
        """Note a new batch: for each of its images the seconds that it waited."""
        self._batch_size.observe(len(waits))
        for wait in waits:
            self._batch_wait.observe(wait)

    def batch_run(self, seconds: float) -> None:
        """Note how long the model ran."""
        self._inference.observe(seconds)
        self._window.add(inference=seconds)

    def answered_image(self, probabilities: NDArray[np.float64], delivery: float) -> None:
        """Count what an image was taken for, shape [classes], and its seconds of delivery."""
        self._delivery.observe(delivery)
        # Not `argmax`: it lets other threads have the interpreter, and this one waits for it.
        values: list[float] = probabilities.tolist()
        confidence = max(values)
        index = values.index(confidence)
        if confidence == confidence:  # NaN would stay in the sum for ever
            self._by_class(self._class(index)).inc()
            self._confidence.observe(confidence)

    def answered(self, seconds: float) -> None:
        """Note how long a request took."""
        self._requests.observe(seconds)

    def rejected(self, reason: str) -> None:
        """Count a request that was answered with a problem."""
        self._by_reason(reason).inc()

    def request(self, face: str, status: int) -> None:
        """Count a request, by one of :data:`service.observe.faces.FACES`."""
        self._by_face(face, status).inc()

    def verdict(self) -> Verdict:
        """Tell what limits the service."""
        preparing, inference, seconds = self._window.sums()
        preparing_threads, model_threads = self._threads
        return verdict(
            Load(seconds, preparing, preparing_threads, inference, model_threads, self._shared)
        )

    def exposition(self) -> tuple[bytes, str]:
        """Give the text for Prometheus and its content type."""
        own = exposition_of(self._registry)
        merged = own if self._snapshots is None else self._snapshots.merged(own)
        return merged, CONTENT_TYPE_LATEST

    def share(self, snapshots: Snapshots) -> None:
        """Show the metrics of the workers beside this one, too, and let them show these."""
        self._snapshots = snapshots
        snapshots.write_always(lambda: exposition_of(self._registry))

    def _class(self, index: int) -> str:
        if index >= MOST_CLASSES:
            return OTHER_CLASSES
        return self._classes[index] if index < len(self._classes) else str(index)

    def _is_bound(self, by: By) -> float:
        return float(self.verdict().by == by)


class _LostLines(Collector):
    """Log lines that could not be written: the log itself cannot tell."""

    def collect(self) -> Iterable[CounterMetricFamily]:
        yield CounterMetricFamily(
            "tlserve_log_lines_lost", "Log lines that could not be written.", logs.lost()
        )


def batch_sizes(largest: int) -> list[int]:
    """List the powers of two below ``largest``, and ``largest``."""
    return [2**i for i in range(largest.bit_length()) if 2**i < largest] + [largest]
