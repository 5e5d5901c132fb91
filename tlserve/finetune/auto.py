"""Choosing a strategy by measuring instead of guessing.

The usual table asks how many images there are and how similar they are to those of the pretraining.
A linear probe takes seconds and answers the second question; where fine-tuning is worth its time,
it begins from the probe's head, and whichever of the two validates better is kept.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from tlserve.bundle.manifest import Selection
from tlserve.finetune.beginning import Beginning
from tlserve.finetune.config import FinetuneConfig, Strategy
from tlserve.finetune.evaluate import Evaluation
from tlserve.finetune.probe import linear_probe
from tlserve.finetune.rate_finder import with_rate
from tlserve.finetune.session import Session

_SIMILAR = 0.8
"""The probe's skill from which on the data count as similar to those of the pretraining."""

_FEW = 500
"""Below so many images a class, similar data are fine-tuned in the last blocks only."""

_TOO_FEW = 10
"""Below so many images a class, nothing but the head is trained."""

_FROM_PROBE = 0.3
"""The head's rate after the probe, as a share of the strategy's: the head is good already."""

_TRAINING_COST = 3
"""A training step costs about three forward passes: forward, and backward as two."""


@dataclass(frozen=True)
class Facts:
    """What the choice is made from.

    Attributes:
        images_per_class: Training images of the smallest class.
        probe: What the linear probe does on the validation images.
        chance: The share of the largest class among the training images.
        minutes: How long fine-tuning is estimated to take.
        budget: How long it may.
    """

    images_per_class: int
    probe: Evaluation
    chance: float
    minutes: float
    budget: float

    @property
    def skill(self) -> float:
        """The probe's accuracy on the scale from chance, 0, to perfection, 1."""
        return max(0.0, (self.probe.accuracy - self.chance) / (1 - self.chance))


def choose(facts: Facts) -> tuple[Strategy, str]:
    """Choose what to do after the probe.

    Returns:
        ``feature-extraction`` for keeping the probe, or the strategy to go on with; and why.
    """
    wrong = facts.probe.images - facts.probe.correct
    probe = f"the linear probe gets {facts.probe.correct} of {facts.probe.images} right"
    if wrong <= 1:
        return "feature-extraction", f"{probe}: there is nothing left to win that could be measured"
    if facts.images_per_class < _TOO_FEW:
        return (
            "feature-extraction",
            f"the smallest class has {facts.images_per_class} images: too few to train more than "
            f"the head ({probe})",
        )
    if facts.minutes > facts.budget:
        return (
            "feature-extraction",
            f"fine-tuning would take about {facts.minutes:.0f} minutes and --budget is "
            f"{facts.budget:g} ({probe})",
        )
    similar = facts.skill >= _SIMILAR
    if similar and facts.images_per_class < _FEW:
        return (
            "partial",
            f"{probe}, so the data are similar to those of the pretraining; with "
            f"{facts.images_per_class} images in the smallest class the last blocks are trained",
        )
    kind = "similar to" if similar else "unlike"
    return (
        "discriminative",
        f"{probe}, so the data are {kind} those of the pretraining; all blocks are trained",
    )


def decide(session: Session, config: FinetuneConfig) -> Beginning:
    """Probe, and choose whether and how to fine-tune from the probe's head.

    Args:
        session: On what.
        config: Settings; those left to the strategy are filled in once it is chosen.
    """
    events = session.events
    if not session.pretrained:
        reason = "the weights are random, so there are no features to probe: all blocks are trained"
        events.message(f"auto: {reason}.")
        chosen = with_rate(session, replace(config, strategy="full").resolved())
        return Beginning(
            chosen, Selection(strategy="full", reason=reason, lr=float(chosen.lr or 0))
        )

    probe = linear_probe(session)
    counts = Counter(sample.label for sample in session.samples)
    images = _TRAINING_COST * len(session.samples) + len(session.val.dataset)  # type: ignore[arg-type]
    facts = Facts(
        images_per_class=min(counts.values()),
        probe=probe.result,
        chance=max(counts.values()) / len(session.samples),
        minutes=probe.seconds_per_image * images * config.epochs / 60,
        budget=config.budget,
    )
    strategy, reason = choose(facts)
    events.message(f"auto: {reason}. The probe took {probe.seconds:.1f} s.")
    selection = Selection(
        strategy=strategy,
        reason=reason,
        probe_accuracy=probe.result.accuracy,
        probe_seconds=round(probe.seconds, 3),
    )
    if strategy == "feature-extraction":
        return Beginning(config, selection, probe.result)
    chosen = replace(config, strategy=strategy).resolved()
    if config.lr is None and isinstance(chosen.lr, float):
        chosen = replace(chosen, lr=chosen.lr * _FROM_PROBE)
    chosen = with_rate(session, chosen)
    return Beginning(chosen, selection.model_copy(update={"lr": chosen.lr}), probe.result)
