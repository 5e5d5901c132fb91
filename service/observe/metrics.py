"""What the service counts, and ``/metrics`` shows."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, Counter, Histogram
from prometheus_client import generate_latest as exposition_of

from service.inference.timing import Timing

_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


class Metrics:
    """The service's Prometheus metrics.

    Args:
        max_batch: The largest batch, which sets the buckets of the batch sizes.
        registry: Where to register them; the process's own by default.
    """

    def __init__(self, max_batch: int, registry: CollectorRegistry | None = None) -> None:
        self._registry = registry = registry or REGISTRY
        self._requests = Histogram(
            "tlserve_request_seconds",
            "Time from a request's headers to its answer, problems included.",
            buckets=_SECONDS,
            registry=registry,
        )
        self._batch_size = Histogram(
            "tlserve_batch_size",
            "Images that ran as one batch.",
            buckets=batch_sizes(max_batch),
            registry=registry,
        )
        self._queue_wait = Histogram(
            "tlserve_queue_wait_seconds",
            "Time that a preprocessed image waited for its batch.",
            buckets=_SECONDS,
            registry=registry,
        )
        self._inference = Histogram(
            "tlserve_inference_seconds",
            "Time that the model took for one batch.",
            buckets=_SECONDS,
            registry=registry,
        )
        self._rejected = Counter(
            "tlserve_rejected",
            "Requests that were answered with a problem, by its name.",
            ["reason"],
            registry=registry,
        )

    def prepared(self, timing: Timing) -> None:
        """See :class:`service.inference.scheduler.Observer`."""

    def batch_taken(self, waits: Sequence[float]) -> None:
        """See :class:`service.inference.scheduler.Observer`."""
        self._batch_size.observe(len(waits))
        for wait in waits:
            self._queue_wait.observe(wait)

    def batch_run(self, seconds: float) -> None:
        """See :class:`service.inference.scheduler.Observer`."""
        self._inference.observe(seconds)

    def answered(self, seconds: float) -> None:
        """Note how long a request took."""
        self._requests.observe(seconds)

    def exposition(self) -> tuple[bytes, str]:
        """Give the text for Prometheus and its content type."""
        return exposition_of(self._registry), CONTENT_TYPE_LATEST

    def rejected(self, reason: str) -> None:
        """Count a request that was answered with a problem."""
        self._rejected.labels(reason).inc()


def batch_sizes(largest: int) -> list[int]:
    """List the powers of two below ``largest``, and ``largest``."""
    return [2**i for i in range(largest.bit_length()) if 2**i < largest] + [largest]
