"""The model is rebuilt from the bundle alone."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.bundles import description
from tests.networks import stand_in
from tlserve.bundle import stage
from tlserve.bundle.manifest import Head
from tlserve.runtime.eager import rebuild
from tlserve.zoo.architectures import head_parameters


def test_an_architecture_that_asks_for_its_formats_version_is_rebuilt(tmp_path: Path) -> None:
    """MNASNet refuses a state dict without one, and safetensors keep none."""
    name = "mnasnet0_5"
    model = stand_in(name, 2, 32)
    head = Head(parameters=head_parameters(name), num_classes=2)
    with stage(tmp_path / name) as staged:
        save_file(model.state_dict(), staged.fresh("weights.safetensors"))
        staged.add("weights.safetensors", "weights", precision="float32")
        bundle = staged.commit(staged.manifest(**description(architecture=name, head=head)))
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(rebuild(bundle)(images), model(images))
