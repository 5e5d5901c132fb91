"""State dicts that have lost what PyTorch keeps beside their tensors."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

from torch import Tensor, nn


def versioned(state: Mapping[str, Tensor], model: nn.Module) -> OrderedDict[str, Tensor]:
    """Add the versions of the modules' formats, for which MNASNet asks.

    Neither safetensors nor a plain dictionary keeps them. Those of ``model`` are right where the
    keys and shapes fit it: another version would show in them.

    Args:
        state: Tensors by their names; they are not copied.
        model: What the state is for.
    """
    result = OrderedDict(state)
    result._metadata = model.state_dict()._metadata  # type: ignore[attr-defined]
    return result
