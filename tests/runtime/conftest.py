"""One small real bundle with every exported file, made once."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from export.formats import FORMATS
from export.source import Source
from tests.bundles import SPEC, description, golden_files
from tests.processor import here
from tlserve.bundle import Bundle, stage
from tlserve.bundle.manifest import Head
from tlserve.finetune.golden import write_golden_answers
from tlserve.preprocess import preprocess
from tlserve.runtime.backend import BACKENDS
from tlserve.zoo.architectures import build, head_parameters

ARCHITECTURE = "mobilenet_v3_small"
CLASSES = ("ant", "bee", "wasp")


def trained_model() -> nn.Module:
    """A network whose answers differ between inputs, unlike a freshly initialised one's."""
    torch.manual_seed(0)
    model = build(ARCHITECTURE, len(CLASSES))
    model.train()
    with torch.no_grad():
        # Batch statistics of real inputs make it so.
        golden = [torch.from_numpy(preprocess(data, SPEC)) for data in golden_files().values()]
        inputs = torch.cat([torch.stack(golden), torch.randn(12, 3, *SPEC.crop)])
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None  # the plain average
        for _ in range(4):
            model(inputs)
    return model.eval()


@pytest.fixture
def copy(bundle: Bundle, tmp_path: Path) -> Bundle:
    """A bundle that the test may alter."""
    shutil.copytree(bundle.path, tmp_path / "copy")
    return Bundle.read(tmp_path / "copy")


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle with weights, golden images and every exported file; read-only."""
    target = tmp_path_factory.mktemp("models") / "insects"
    model = trained_model()
    with stage(target) as staged:
        save_file(dict(model.state_dict()), staged.fresh("weights.safetensors"))
        staged.add("weights.safetensors", "weights", precision="float32")
        logits = []
        for name, data in golden_files().items():
            staged.fresh(name).write_bytes(data)
            staged.add(name, "golden-image")
            with torch.inference_mode():
                logits.append(model(torch.from_numpy(preprocess(data, SPEC))[None]).numpy())
        write_golden_answers(staged, sorted(golden_files()), np.concatenate(logits), CLASSES, 1.0)
        images = torch.stack(
            [torch.from_numpy(preprocess(d, SPEC)) for d in golden_files().values()]
        )
        source = Source(
            model,
            torch.zeros(2, 3, *SPEC.crop),
            "{}",
            images.numpy(),
            tmp_path_factory.mktemp("scratch"),
            lambda: [images.numpy()],
        )
        for name, made in FORMATS.items():
            if name not in here(*FORMATS):
                continue
            # Half of the groups in float: so small a network moves far when all are quantised.
            made.write(source, staged.fresh(made.file), made.attempts - 1)
            staged.add(made.file, name, precision=BACKENDS[name].precision)
            for companion, kind in made.companions.items():
                if (staged.path / companion).exists():
                    staged.add(companion, kind, precision=BACKENDS[name].precision)
        head = Head(parameters=head_parameters(ARCHITECTURE), num_classes=len(CLASSES))
        return staged.commit(staged.manifest(**description(CLASSES, head=head)))
