"""The pieces that the panels' expressions are made of."""

from __future__ import annotations

from deploy.dashboard.panels import Query

OURS = 'instance=~"$instance"'
"""Selects the series of the instances that the dashboard's variable names."""

JOB = 'job="tlserve"'
"""Selects the service's processes: Prometheus counts its own under the same names."""

PROCESS = f"{JOB}, {OURS}"
"""Selects the processes of those instances."""

PARTS_OF_AN_ANSWER = {
    "queue wait": "tlserve_queue_wait_seconds",
    "decode": "tlserve_decode_seconds",
    "preprocess": "tlserve_preprocess_seconds",
    "batch wait": "tlserve_batch_wait_seconds",
    "inference": "tlserve_inference_seconds",
    "delivery": "tlserve_delivery_seconds",
}
"""The histogram of each part, in the order in which they come."""

QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
"""Those that are drawn, by their name."""


def rate(metric: str, *matchers: str) -> str:
    """Ask for a counter's increase a second."""
    return f"rate({metric}{{{', '.join((*matchers, OURS))}}}[$__rate_interval])"


def quantile(which: float, histogram: str) -> str:
    """Ask for a quantile over all instances together.

    Args:
        which: 0 to 1.
        histogram: Its name, without ``_bucket``.
    """
    return f"histogram_quantile({which}, sum by (le) ({rate(f'{histogram}_bucket')}))"


def quantiles(histogram: str) -> list[Query]:
    """Ask for each of :data:`QUANTILES`."""
    return [Query(quantile(which, histogram), name) for name, which in QUANTILES.items()]


def buckets(histogram: str) -> Query:
    """Ask how many fell into each bucket."""
    increase = f"increase({histogram}_bucket{{{OURS}}}[$__rate_interval])"
    return Query(f"sum by (le) ({increase})", "{{le}}")
