"""A real bundle, small enough to make in seconds: resnet18 at 64 pixels, exported to ONNX."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from tests.bundles import description, golden_files
from tests.images import encoded, noise
from tlserve.bundle import Bundle, stage
from tlserve.bundle.manifest import Head, Preprocessing
from tlserve.finetune.golden import write_golden_answers
from tlserve.preprocess import preprocess
from tlserve.zoo.architectures import build, head_parameters

CLASSES = ("ant", "bee", "crane fly", "dragonfly", "earwig", "firefly", "grasshopper")

SPEC = Preprocessing(
    resize=(72,),
    interpolation="bilinear",
    crop=(64, 64),
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
)


def write(target: Path) -> Bundle:
    """Write the bundle; its answers differ between images, as a trained model's do."""
    torch.manual_seed(0)
    model = build("resnet18", len(CLASSES))
    with torch.no_grad():
        model.fc.weight *= 8  # type: ignore[operator, union-attr]
    model.eval()
    with stage(target) as staged:
        save_file(model.state_dict(), staged.fresh("weights.safetensors"))
        staged.add("weights.safetensors", "weights", precision="float32")
        golden = golden_files()
        for name, data in golden.items():
            staged.fresh(name).write_bytes(data)
            staged.add(name, "golden-image")
        tensors = torch.from_numpy(np.stack([preprocess(golden[n], SPEC) for n in sorted(golden)]))
        with torch.inference_mode():
            write_golden_answers(staged, sorted(golden), model(tensors).numpy(), CLASSES, 1.0)
        _export(model, tensors[:2], staged.fresh("model.onnx"))
        staged.add("model.onnx", "onnx", precision="float32")
        head = Head(parameters=head_parameters("resnet18"), num_classes=len(CLASSES))
        fields = description(CLASSES, architecture="resnet18", preprocessing=SPEC, head=head)
        return staged.commit(staged.manifest(**fields))


def write_without_onnx(bundle: Bundle, target: Path) -> None:
    """Copy a bundle, but for its exported files."""
    with stage(target) as staged:
        for kind in ("weights", "golden-image", "golden-logits", "golden-answers"):
            for name in bundle.names(kind):
                staged.fresh(name).write_bytes((bundle.path / name).read_bytes())
                staged.add(name, kind)
        staged.commit(staged.manifest(**_fields(bundle)))


def write_copy(bundle: Bundle, target: Path, *, golden_shift: float = 0.0) -> None:
    """Copy a bundle; a shift makes its golden logits another model's, with hashes to match."""
    with stage(target) as staged:
        for name, entry in bundle.manifest.files.items():
            path = staged.fresh(name)
            if entry.kind == "golden-logits":
                np.save(path, np.load(bundle.path / name) + np.float32(golden_shift))
            else:
                path.hardlink_to(bundle.path / name)
            staged.add(name, entry.kind, precision=entry.precision)
        staged.commit(staged.manifest(**_fields(bundle)))


def image(seed: int) -> bytes:
    """A JPEG file; each seed gives another answer."""
    return encoded(noise(80 + 7 * seed % 90, 70 + 13 * seed % 110, seed), "JPEG", quality=92)


def _fields(bundle: Bundle) -> dict[str, object]:
    return {name: getattr(bundle.manifest, name) for name in type(bundle.manifest).model_fields}


def _export(model: torch.nn.Module, example: torch.Tensor, path: Path) -> None:
    with warnings.catch_warnings():
        # The exporter's own deprecations, which are not ours to fix.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (example,),
            path,
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
            external_data=False,
            verbose=False,
        )
