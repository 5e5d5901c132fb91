"""Finding a learning rate by a range test.

Smith 2017, https://arxiv.org/abs/1506.01186: the rate rises exponentially, a step at a time, until
the loss explodes. The rate suggested is the one at which the smoothed loss falls fastest.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

from tlserve.errors import TlserveError
from tlserve.finetune.config import FinetuneConfig
from tlserve.finetune.feed import make_feed
from tlserve.finetune.session import Session
from tlserve.finetune.stepper import Stepper
from tlserve.finetune.strategies import make_plan

_LOWEST, _HIGHEST = 1e-6, 1.0
_STEPS = 60
_SMOOTHING = 0.9
_EXPLODED = 4.0
_LEAST_STEPS = 12


def find_rate(session: Session, config: FinetuneConfig) -> float:
    """Find the head's learning rate; the network is as it was afterwards.

    Args:
        session: On what.
        config: Resolved settings; the rates of the other blocks stay in proportion to the head's.

    Raises:
        TlserveError: The loss never falls.
    """
    state = copy.deepcopy(session.model.state_dict())
    config = replace(config, lr=1.0)
    plan = make_plan(config, session.blocks, 1.0)
    stepper = Stepper(session, config, plan)
    stepper.begin_epoch(1)
    feed = make_feed(session, config, plan.stages(config.epochs)[0], session.model)
    rates: list[float] = []
    losses: list[float] = []
    session.events.begin("learning rate", _STEPS * session.views.batch_size)
    endless = itertools.chain.from_iterable(feed.train(epoch, 0) for epoch in itertools.count(1))
    for number, (inputs, labels) in enumerate(itertools.islice(endless, _STEPS)):
        rate = _LOWEST * (_HIGHEST / _LOWEST) ** (number / (_STEPS - 1))
        loss = float(stepper.step(feed.network, inputs, labels, rate))
        session.events.advance(session.views.batch_size)
        if not math.isfinite(loss) or loss > _EXPLODED * min([loss, *losses]):
            break
        rates.append(rate)
        losses.append(loss)
    session.events.end()
    session.model.load_state_dict(state)
    return suggest(rates, losses)


def with_rate(session: Session, config: FinetuneConfig) -> FinetuneConfig:
    """Replace the rate ``find`` by the one that is found, and say which."""
    if config.lr != "find":
        return config
    rate = find_rate(session, config)
    session.events.message(f"--lr find: {rate:g}.")
    return replace(config, lr=rate)


def suggest(rates: Sequence[float], losses: Sequence[float]) -> float:
    """Give the rate at which the smoothed loss falls fastest, over the logarithm of the rate.

    Raises:
        TlserveError: It never falls, or there are too few points to tell.
    """
    smooth: list[float] = []
    mean = 0.0
    for count, loss in enumerate(losses, start=1):
        mean = _SMOOTHING * mean + (1 - _SMOOTHING) * loss
        smooth.append(mean / (1 - _SMOOTHING**count))
    lowest = min(range(len(smooth)), key=smooth.__getitem__, default=0)
    slopes = [smooth[i + 1] - smooth[i] for i in range(lowest)]
    if len(smooth) < _LEAST_STEPS or not slopes or min(slopes) >= 0:
        raise TlserveError(
            "--lr find found no learning rate at which the loss falls.",
            hint="Give one, for example --lr 1e-3.",
        )
    steepest = min(range(len(slopes)), key=slopes.__getitem__)
    return float(f"{math.sqrt(rates[steepest] * rates[steepest + 1]):.2g}")
