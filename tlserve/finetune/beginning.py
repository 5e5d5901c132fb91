"""What is decided before training begins."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tlserve.bundle.manifest import Selection
from tlserve.finetune.config import FinetuneConfig
from tlserve.finetune.evaluate import Evaluation
from tlserve.finetune.run_folder import State


@dataclass(frozen=True)
class Beginning:
    """What was decided before training, by the user or by measurements.

    Attributes:
        config: Resolved settings; ``lr`` is a number.
        selection: Which strategy ``auto`` chose, and why.
        begun: What the network does already, if that counts: it is kept where no epoch is better.
    """

    config: FinetuneConfig
    selection: Selection | None = None
    begun: Evaluation | None = None

    @property
    def trains(self) -> bool:
        """Whether there is anything left to train after the probe of ``auto``."""
        return self.selection is None or self.selection.strategy != "feature-extraction"

    @staticmethod
    def from_state(state: State, config: FinetuneConfig) -> Beginning:
        """Take what was decided from a state, and the rest from the run's settings."""
        selection, begun = state["selection"], state["begun"]
        return Beginning(
            replace(config, **state["config"]),
            Selection(**selection) if selection else None,
            Evaluation(**begun) if begun else None,
        )


def where(state: State) -> str:
    """Say in words how far a state had come."""
    number, batches, _ = state["position"]
    if state["done"]:
        return "after the last epoch"
    return f"in epoch {number}, after {batches} of its batches"
