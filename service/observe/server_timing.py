"""The ``Server-Timing`` header: where the time of an answer went, for the client to see."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from service.inference.timing import Timing


def server_timing(timing: Timing, total: float) -> str:
    """Write the header's value, in milliseconds; see W3C Server Timing.

    Args:
        timing: Of the image that was answered.
        total: Seconds since the request came.
    """
    return (
        f"queue;dur={timing.queue * 1e3:.2f}, decode;dur={timing.decode * 1e3:.2f}, "
        f"preprocess;dur={timing.preprocess * 1e3:.2f}, batch;dur={timing.batch_wait * 1e3:.2f}, "
        f"inference;dur={timing.inference * 1e3:.2f}, delivery;dur={timing.delivery * 1e3:.2f}, "
        f"total;dur={total * 1e3:.2f}"
    )
