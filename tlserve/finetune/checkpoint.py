"""Files of a run that show how far it has come: the best weights, and the history."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import save
from torch import nn

from tlserve.bundle.files import replacing
from tlserve.bundle.manifest import Epoch


def save_weights(model: nn.Module, path: Path) -> None:
    """Write a model's state dict as safetensors: a copy, whole or not at all."""
    state = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    with replacing(path) as temporary:
        # Written by Python rather than by safetensors, whose errors hide what the disk said.
        temporary.write_bytes(save(state))


def write_history(path: Path, history: Sequence[Epoch]) -> None:
    """Write what each epoch did as CSV, whole or not at all."""
    with replacing(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(Epoch.model_fields))
        writer.writeheader()
        writer.writerows(epoch.model_dump() for epoch in history)
