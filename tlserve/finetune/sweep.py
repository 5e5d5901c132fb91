"""Finding a learning rate and a weight decay by trying them.

Where frozen blocks are computed once, a try costs seconds. The best by validation is the best of
several looks at the same images: its accuracy is a little too good to be true of others.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

from tlserve.finetune.beginning import Beginning
from tlserve.finetune.config import FinetuneConfig
from tlserve.finetune.evaluate import Evaluation
from tlserve.finetune.events import Events
from tlserve.finetune.loop import train
from tlserve.finetune.random_state import random_state, restore_random_state
from tlserve.finetune.run_folder import RunFolder
from tlserve.finetune.session import Session

_FACTORS = (0.1, 0.3, 1.0, 3.0, 10.0)
"""Of the learning rate."""

_WEIGHT_DECAYS = (0.0, 1e-4, 1e-2)


@dataclass(frozen=True)
class Try:
    """One combination, and what the best epoch of it did."""

    lr: float
    weight_decay: float
    result: Evaluation
    epoch: int


def with_sweep(session: Session, config: FinetuneConfig) -> FinetuneConfig:
    """Replace the learning rate and the weight decay by the best that are tried.

    Args:
        session: Its network is as it was afterwards.
        config: Resolved settings. The rates are a tenth to ten times its own; a weight decay is
            tried beside 0, 1e-4 and 1e-2.

    Raises:
        TlserveError: What training raises.
    """
    if not config.sweep:
        return config
    assert isinstance(config.lr, float)  # noqa: S101 - the settings are checked
    decays = sorted({*_WEIGHT_DECAYS, config.weight_decay or 0.0})
    rates = [float(f"{config.lr * factor:.3g}") for factor in _FACTORS]
    pairs = [(rate, decay) for rate in rates for decay in decays]
    events = session.events
    begun, drawn = copy.deepcopy(session.model.state_dict()), random_state()
    best: Try | None = None
    for number, (rate, decay) in enumerate(pairs, start=1):
        tried = _try(session, replace(config, lr=rate, weight_decay=decay))
        session.model.load_state_dict(begun)
        restore_random_state(drawn)
        is_best = tried.result.better_than(best.result if best else None)
        best = tried if best is None or is_best else best
        events.message(
            f"sweep {number:>2}/{len(pairs)}  lr {rate:<7g}  weight decay {decay:<6g}  "
            f"{tried.result.correct} of {tried.result.images} right  "
            f"val loss {tried.result.loss:.4f}{'  best' if is_best else ''}"
        )
    assert best is not None  # noqa: S101 - there are rates
    events.message(f"--sweep: lr {best.lr:g}, weight decay {best.weight_decay:g}.")
    return replace(config, lr=best.lr, weight_decay=best.weight_decay)


def _try(session: Session, config: FinetuneConfig) -> Try:
    folder = RunFolder(session.run.path / "sweep")
    with folder.temporary():
        attempt = replace(session, run=folder, events=_Muted(session.events))
        trained = train(attempt, Beginning(config), keep_states=False)
    assert isinstance(config.lr, float)  # noqa: S101 - it is from the sweep
    return Try(config.lr, config.weight_decay or 0.0, trained.best, trained.best_epoch)


class _Muted(Events):
    """Shows what is computed once for all tries, which takes time, but not each epoch."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._shown = False

    def begin(self, task: str, total: int) -> None:
        self._shown = task in ("frozen blocks", "decoding images")
        if self._shown:
            self._events.begin(task, total)

    def advance(self, images: int = 1) -> None:
        if self._shown:
            self._events.advance(images)

    def end(self) -> None:
        if self._shown:
            self._events.end()
