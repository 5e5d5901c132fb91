"""What limits the service: reading and resizing images, the model, or nothing.

A stage whose threads were at work all the time cannot do more, whatever the other one could. On a
GPU each stage has its own; on the CPU both share them, and what was saved in one is there for the
other. Either way the stage that was busier is the one worth changing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

By = Literal["decode", "model", "idle"]

BOUNDS: tuple[By, ...] = get_args(By)

_IDLE_BELOW = 0.5
"""With less of its threads' time taken, a stage has room for twice the load."""

_ADVICE: dict[By, str] = {
    "decode": (
        "Decode-bound: reading and resizing images takes more of its threads' time than the model "
        "does of its own. Give the service more processor cores, send smaller images, let JPEG "
        "files be decoded at a fraction of their size (`jpeg_draft` of the bundle), or send "
        "tensors that are preprocessed already. Another backend, INT8 or larger batches help "
        "little."
    ),
    "model": (
        "Model-bound: the model runs nearly all the time. Serve a faster export "
        "(`tlserve export --auto` measures INT8, fp16 and batch sizes), allow larger batches with "
        "--max-batch, use a GPU, a smaller architecture or a second machine. Faster decoding helps "
        "little."
    ),
    "idle": (
        "Idle: neither decoding nor the model is busy for half of the time. If requests wait all "
        "the same, they come one after the other, or the HTTP side is the limit: more clients at "
        "once or another process will tell."
    ),
}


@dataclass(frozen=True)
class Load:
    """Work that was done in a time.

    Attributes:
        seconds: The time.
        preparing: Seconds of decoding and preprocessing, of all threads together.
        preparing_threads: How many threads do that.
        inference: Seconds that batches ran.
        model_threads: How many batches can run at once.
        shared: Whether the threads that prepare are those that run batches, too.
    """

    seconds: float
    preparing: float
    preparing_threads: int
    inference: float
    model_threads: int = 1
    shared: bool = False


@dataclass(frozen=True)
class Verdict:
    """What limits the service.

    Attributes:
        by: The stage, or ``idle``.
        preparing: The share of the preparing threads' time that was taken, 0 to 1.
        inference: The same of the model.
        advice: What that means, and what to do.
    """

    by: By
    preparing: float
    inference: float
    advice: str


def verdict(load: Load) -> Verdict:
    """Tell from the work of about a minute what limits the service."""
    preparing = load.preparing / (load.seconds * load.preparing_threads)
    inference = load.inference / (load.seconds * load.model_threads)
    busy = preparing + inference if load.shared else max(preparing, inference)
    by: By = "idle"
    if busy >= _IDLE_BELOW:
        by = "decode" if preparing > inference else "model"
    # Work is counted when it ends, and may have begun before the time.
    return Verdict(by, min(1.0, preparing), min(1.0, inference), _ADVICE[by])
