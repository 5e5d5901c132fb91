"""Images a second and latency by batch size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tlserve.report.plotting import png
from tlserve.runtime.measure import Measurement


def draw_throughput(found: Sequence[Measurement], title: str, path: Path) -> None:
    """Draw what was measured, a line for each backend and number of threads.

    Raises:
        StorageError: The disk refused.
    """
    with png(path, 9, 4) as figure:
        speed, latency = figure.subplots(1, 2)
        sizes = sorted({m.batch for m in found})
        for key in dict.fromkeys((m.backend, m.threads) for m in found):
            mine = sorted(
                (m for m in found if (m.backend, m.threads) == key), key=lambda m: m.batch
            )
            batches = [m.batch for m in mine]
            label = f"{key[0]}, {key[1]} thread{'s' * (key[1] > 1)}"
            (line,) = speed.plot(
                batches, [m.images_per_second for m in mine], marker="o", label=label
            )
            colour = line.get_color()
            latency.plot(batches, [m.p50_ms for m in mine], marker="o", color=colour)
            latency.plot(batches, [m.p99_ms for m in mine], marker=".", ls=":", color=colour)
        speed.set_ylabel("images/s")
        speed.set_ylim(bottom=0)
        speed.legend()
        latency.set_ylabel("milliseconds a batch: median, and dotted 99 of 100")
        latency.set_yscale("log")
        for axes in (speed, latency):
            axes.set_xscale("log", base=2)
            axes.set_xticks(sizes, [str(size) for size in sizes])
            axes.set_xlabel("images in a batch")
            axes.grid(alpha=0.3)
        figure.suptitle(title)
