"""Which exported file answers fastest on this machine, at what accuracy, and why it is chosen."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from tlserve.bundle.manifest import Precision, Serving
from tlserve.errors import ExportError
from tlserve.runtime.backend import BACKENDS, Device
from tlserve.runtime.measure import Measurement
from tlserve.runtime.processors import available_processors

BATCHES: dict[Device, tuple[int, ...]] = {"cpu": (1, 4, 16), "cuda": (1, 4, 16, 64)}
"""Images in a batch; a processor gains nothing by more."""

_AS_FAST = 0.9
"""From this share of the highest speed on, what is simpler is preferred to what is faster."""

_WIDEST_FIRST: tuple[Precision, ...] = ("float32", "float16", "bfloat16", "int8")


@dataclass(frozen=True)
class Candidate:
    """A backend that passed its parity check.

    Attributes:
        backend: Its name.
        bytes: The size of what it runs.
        accuracy: On the validation images; ``None``: they were not at hand.
        flips: How many of them it names another class for than the trained model.
    """

    backend: str
    bytes: int
    accuracy: float | None
    flips: int


def thread_counts() -> list[int]:
    """Give the numbers of threads that are worth a try: powers of two, and one a processor."""
    most = available_processors()
    counts = {most}
    count = 1
    while count < most:
        counts.add(count)
        count *= 2
    return sorted(counts)


def choose(found: Sequence[Measurement], p99_ms: float | None) -> Serving:
    """Pick the highest throughput among what answers in time.

    Of those within 10 % of it: the widest precision, then the smallest batch, the fewest threads.

    Args:
        found: What was measured.
        p99_ms: The most milliseconds that 99 of 100 batches may take; ``None``: any.

    Raises:
        ExportError: Nothing answers in time.
    """
    in_time = [m for m in found if p99_ms is None or m.p99_ms <= p99_ms]
    if not in_time:
        fastest = min(found, key=lambda m: m.p99_ms)
        raise ExportError(
            f"Nothing answers within --p99-ms {p99_ms:g}: the fastest, {_named(fastest)}, takes "
            f"{fastest.p99_ms:.1f} ms.",
            hint="Nothing was written. Allow more, or train a smaller architecture.",
        )
    best = max(m.images_per_second for m in in_time)
    close = [m for m in in_time if m.images_per_second >= _AS_FAST * best]
    picked = min(
        close,
        key=lambda m: (
            _WIDEST_FIRST.index(BACKENDS[m.backend].precision),
            m.batch,
            m.threads,
            -m.images_per_second,
        ),
    )
    return Serving(
        backend=picked.backend,
        device=picked.device,
        threads=picked.threads,
        max_batch=picked.batch,
        reason=_reason(picked, found, best, p99_ms),
    )


def _reason(
    picked: Measurement, found: Sequence[Measurement], best: float, p99_ms: float | None
) -> str:
    text = f"{_named(picked)}: {picked.images_per_second:.0f} images/s, p99 {picked.p99_ms:.1f} ms"
    eager = [m.images_per_second for m in found if m.backend == "eager"]
    if eager and picked.backend != "eager":
        text += f", {picked.images_per_second / max(eager):.1f} times the best of eager"
    text += "; the highest throughput"
    if picked.images_per_second < best:
        text = text.removesuffix("the highest throughput")
        text += f"within 10 % of the highest throughput ({best:.0f}), and simpler"
    return text + (f" within --p99-ms {p99_ms:g}" if p99_ms is not None else "")


def _named(found: Measurement) -> str:
    threads = f", {found.threads} thread{'s' * (found.threads > 1)}" * (found.device == "cpu")
    beside = f", {found.streams} side by side" if found.streams > 1 else ""
    return f"{found.backend} on {found.device}{threads}, batches of {found.batch}{beside}"


def report(
    found: Sequence[Measurement], candidates: Sequence[Candidate], refused: Mapping[str, str]
) -> str:
    """Write down what the choice was made from.

    Args:
        found: What was measured.
        candidates: Of which files.
        refused: Why others were not measured, by their names.

    Returns:
        JSON.
    """
    content = {
        "schema_version": 1,
        "machine": {"machine": platform.machine(), "processors": os.cpu_count()},
        "candidates": [asdict(candidate) for candidate in candidates],
        "refused": dict(refused),
        "measurements": [asdict(measurement) for measurement in found],
    }
    return json.dumps(content, indent=1) + "\n"
