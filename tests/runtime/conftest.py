"""One small real bundle with every exported file, made once."""

from __future__ import annotations

import io
import logging
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tests.bundles import SPEC, description, golden_files
from tlserve.bundle import Bundle, stage
from tlserve.bundle.manifest import Head
from tlserve.preprocess import preprocess
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


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle with weights, golden images, ONNX and TorchScript; read-only."""
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
        np.save(staged.fresh("golden/logits.npy"), np.concatenate(logits))
        staged.add("golden/logits.npy", "golden-logits", precision="float32")
        staged.fresh("model.torchscript.pt").write_bytes(torchscript(model))
        staged.add("model.torchscript.pt", "torchscript", precision="float32")
        onnx(model, staged.fresh("model.onnx"))
        staged.add("model.onnx", "onnx", precision="float32")
        head = Head(parameters=head_parameters(ARCHITECTURE), num_classes=len(CLASSES))
        return staged.commit(staged.manifest(**description(CLASSES, head=head)))


def torchscript(model: nn.Module) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r".*torch\.jit", FutureWarning)
        warnings.filterwarnings("ignore", r".*torch\.jit", DeprecationWarning)
        traced = torch.jit.trace(model, torch.zeros(2, 3, *SPEC.crop))  # type: ignore[no-untyped-call]
        torch.jit.save(traced, file)
    return file.getvalue()


def onnx(model: nn.Module, path: Path) -> None:
    # Under pytest's log capture torch writes its debug trace, which takes longer than the export.
    logging.disable(logging.DEBUG)
    with warnings.catch_warnings():
        # The exporter's own use of what torch deprecates.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        torch.onnx.export(
            model,
            (torch.zeros(2, 3, *SPEC.crop),),
            path,
            dynamo=True,
            external_data=False,
            verbose=False,
            optimize=False,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )
    logging.disable(logging.NOTSET)
