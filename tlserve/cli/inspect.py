"""``tlserve inspect``."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tlserve.errors import BundleNotFoundError, UsageError

if TYPE_CHECKING:
    from torch import nn

    from tlserve.bundle import Bundle
    from tlserve.bundle.manifest import Preprocessing


def inspect(
    model: Annotated[
        str, typer.Argument(help="A bundle's folder, or the name of an architecture.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show a bundle or an architecture: structure, head, preprocessing, files and parity."""
    from tlserve.bundle import Bundle

    path = Path(model)
    if path.exists():
        bundle = Bundle.read(path)
        bundle.verify()
        _show_bundle(bundle, as_json)
        return
    if len(path.parts) > 1:
        raise BundleNotFoundError(f"There is no bundle at {path}.")
    _show_architecture(model, as_json)


def _show_bundle(bundle: Bundle, as_json: bool) -> None:
    from tlserve.cli.console import out, table

    manifest = bundle.manifest
    network = _network_of(bundle)
    if as_json:
        structure = None if network is None else _structure(network)
        typer.echo(json.dumps({**manifest.model_dump(mode="json"), "structure": structure}))
        return
    metrics = manifest.metrics
    facts = [
        ["name", manifest.name],
        ["version", manifest.version],
        ["architecture", manifest.architecture],
        ["classes", f"{len(manifest.classes)}: {', '.join(manifest.classes)}"],
        ["head", ", ".join(manifest.head.parameters)],
        ["parameters", "needs torch" if network is None else _parameters(network)],
        ["pretrained", manifest.provenance.pretrained],
        ["strategy", str(manifest.training.get("strategy"))],
        [
            "validation",
            f"{metrics.val_accuracy:.1%} ({metrics.val_correct} of {metrics.val_images}), "
            f"epoch {metrics.best_epoch}",
        ],
        *_preprocessing(manifest.preprocessing),
        ["trained", manifest.provenance.created],
    ]
    table("Model", ["", ""], facts)
    if network is not None:
        _print_structure(network)
    rows = []
    for name, entry in manifest.files.items():
        parity = entry.parity
        details = ", ".join(f"{k} {v}" for k, v in entry.details.items())
        verdict = (
            f"{'pass' if parity.passed else 'FAIL'}, max |Δlogit| {parity.max_abs_diff:.2g} "
            f"of {parity.tolerance:.2g}"
            if parity
            else ""
        )
        rows.append([name, entry.kind, f"{entry.bytes / 1e6:.2f} MB", details, verdict])
    table("Files (their hashes were compared)", ["file", "kind", "size", "details", "parity"], rows)
    if not bundle.names("onnx"):
        out.print(f"Not exported yet: tlserve export {bundle.path} --onnx --torchscript")


def _network_of(bundle: Bundle) -> nn.Module | None:
    """Build the bundle's network, without weights; ``None`` where torch is not installed."""
    if find_spec("torch") is None:
        return None
    from tlserve.zoo.architectures import skeleton

    manifest = bundle.manifest
    network = skeleton(
        manifest.architecture, len(manifest.classes), image_size=manifest.preprocessing.crop[0]
    )
    _freeze_as_trained(network, manifest.architecture, manifest.training.get("strategy"))
    return network


def _show_architecture(name: str, as_json: bool) -> None:
    from tlserve.cli.console import table
    from tlserve.cli.torch_stack import require_torch

    require_torch()
    from tlserve.zoo.architectures import check_architecture, head_parameters, skeleton
    from tlserve.zoo.presets import preset, weights_entry

    try:
        check_architecture(name)
    except UsageError as error:
        raise UsageError(
            f"{name!r} is neither a bundle's folder nor an architecture.", hint=error.hint
        ) from error
    network = skeleton(name, len(weights_entry(name).meta["categories"]))
    spec = preset(name)
    head = head_parameters(name)
    if as_json:
        content = {
            "architecture": name,
            "head": head,
            "parameters": sum(p.numel() for p in network.parameters()),
            "preprocessing": spec.model_dump(mode="json"),
            "structure": _structure(network),
        }
        typer.echo(json.dumps(content))
        return
    sizes = {k: tuple(v.shape) for k, v in network.state_dict().items() if k in head}
    facts = [
        ["architecture", name],
        ["head", ", ".join(f"{k} {shape}" for k, shape in sizes.items())],
        ["pretrained", f"{weights_entry(name).name} (default)"],
        *_preprocessing(spec),
    ]
    for strategy in ("feature-extraction", "full"):
        _freeze_as_trained(network, name, strategy)
        facts.append([f"parameters, {strategy}", _parameters(network)])
    table("Architecture", ["", ""], facts)
    _print_structure(network)


def _freeze_as_trained(network: nn.Module, architecture: str, strategy: Any) -> None:
    from tlserve.finetune.strategies import freeze

    freeze(network, architecture, strategy)


def _parameters(network: nn.Module) -> str:
    from tlserve.zoo.architectures import count_parameters

    total, trainable = count_parameters(network)
    return f"{total:,} in all, {trainable:,} trainable"


def _preprocessing(spec: Preprocessing) -> list[list[str]]:
    crop = " x ".join(map(str, spec.crop))
    resize = " x ".join(map(str, spec.resize))
    return [
        [
            "resize",
            f"{resize} px{' (short edge)' if len(spec.resize) == 1 else ''}, {spec.interpolation}",
        ],
        ["centre crop", f"{crop} px"],
        ["mean", ", ".join(f"{v:g}" for v in spec.mean)],
        ["std", ", ".join(f"{v:g}" for v in spec.std)],
    ]


def _structure(network: nn.Module) -> list[dict[str, Any]]:
    """List the top-level modules; containers of the network's body are opened one level."""
    rows = []
    for name, child in network.named_children():
        grandchildren = list(child.named_children())
        opened = name in ("features", "encoder", "classifier", "heads")
        parts = [(f"{name}.{n}", m) for n, m in grandchildren] if opened else [(name, child)]
        for path, module in parts:
            parameters = list(module.parameters())
            rows.append(
                {
                    "module": path,
                    "type": type(module).__name__,
                    "parameters": sum(p.numel() for p in parameters),
                    "trainable": sum(p.numel() for p in parameters if p.requires_grad),
                }
            )
    return rows


def _print_structure(network: nn.Module) -> None:
    from tlserve.cli.console import table

    rows = [
        [r["module"], r["type"], f"{r['parameters']:,}", f"{r['trainable']:,}"]
        for r in _structure(network)
    ]
    table("Structure", ["module", "type", "parameters", "trainable"], rows)
