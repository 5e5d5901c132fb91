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
    from tlserve.finetune.strategies import Plan
    from tlserve.zoo.blocks import Block

_STRATEGIES = ("feature-extraction", "partial", "discriminative", "gradual", "full")


def inspect(
    model: Annotated[
        str | None,
        typer.Argument(
            help="A bundle's folder, or the name of an architecture.",
            show_default="lists the architectures",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show a bundle or an architecture: structure, head, preprocessing, files and parity."""
    from tlserve.bundle import Bundle
    from tlserve.zoo.names import is_timm

    if model is None:
        _list_architectures(as_json)
        return
    path = Path(model)
    if path.exists():
        bundle = Bundle.read(path)
        bundle.verify()
        _show_bundle(bundle, as_json)
        return
    if len(path.parts) > 1 and not is_timm(model):
        raise BundleNotFoundError(f"There is no bundle at {path}.")
    _show_architecture(model, as_json)


def _show_bundle(bundle: Bundle, as_json: bool) -> None:
    from tlserve.cli.console import out, table

    manifest = bundle.manifest
    rows = _trained_blocks(bundle)
    if as_json:
        typer.echo(json.dumps({**manifest.model_dump(mode="json"), "blocks": rows}))
        return
    metrics = manifest.metrics
    facts = [
        ["name", manifest.name],
        ["version", manifest.version],
        ["architecture", manifest.architecture],
        ["classes", f"{len(manifest.classes)}: {', '.join(manifest.classes)}"],
        ["head", ", ".join(manifest.head.parameters)],
        ["parameters", _parameters(rows, metrics.trainable_parameters)],
        ["pretrained", manifest.provenance.pretrained],
        ["strategy", _strategy(bundle)],
        [
            "validation",
            f"{metrics.val_accuracy:.1%} ({metrics.val_correct} of {metrics.val_images}), "
            f"epoch {metrics.best_epoch}",
        ],
        *_preprocessing(manifest.preprocessing),
        ["trained", manifest.provenance.created],
    ]
    if manifest.serving is not None:
        facts.append(["served with", manifest.serving.reason])
    table("Model", ["", ""], facts)
    if rows is not None:
        columns = ["block", "modules", "parameters", "trained at"]
        cells = [[r["block"], r["modules"], f"{r['parameters']:,}", r["trained"]] for r in rows]
        table("Blocks", columns, cells)
    files = []
    for name, entry in manifest.files.items():
        parity = entry.parity
        details = ", ".join(f"{k} {v}" for k, v in entry.details.items())
        verdict = (
            f"{'pass' if parity.passed else 'FAIL'}, max |Δlogit| {parity.max_abs_diff:.2g} "
            f"of {parity.tolerance:.2g}"
            + f", {parity.accuracy_drop:.2f} points lost"
            * (parity.max_accuracy_drop is not None)
            if parity
            else ""
        )
        files.append([name, entry.kind, f"{entry.bytes / 1e6:.2f} MB", details, verdict])
    table(
        "Files (their hashes were compared)", ["file", "kind", "size", "details", "parity"], files
    )
    if not bundle.names("onnx"):
        out.print(f"Not exported yet: tlserve export {bundle.path} --onnx --torchscript")


def _trained_blocks(bundle: Bundle) -> list[dict[str, Any]] | None:
    """List the network's blocks and the rates of the training; ``None`` without torch."""
    if find_spec("torch") is None:
        return None
    from tlserve.finetune.config import setting_names
    from tlserve.zoo.architectures import skeleton

    manifest = bundle.manifest
    network = skeleton(
        manifest.architecture, len(manifest.classes), image_size=manifest.preprocessing.crop[0]
    )
    # A bundle of another version may have been trained with settings that this one lacks.
    settings = {k: v for k, v in manifest.training.items() if k in setting_names()}
    if manifest.selection is not None:
        settings |= {"strategy": manifest.selection.strategy, "lr": manifest.selection.lr}
        if not manifest.metrics.best_epoch:
            settings["strategy"] = "feature-extraction"
    plan = _plan(settings, network, manifest.head.parameters)
    rows = [_block_row(network, block) for block in plan.blocks]
    for number, row in enumerate(rows):
        row["trained"] = _rate(plan, number)
    return rows


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
    rows = [_block_row(network, block) for block in _blocks(network, head)]
    plans = {strategy: _plan({"strategy": strategy}, network, head) for strategy in _STRATEGIES}
    if as_json:
        for number, row in enumerate(rows):
            row["strategies"] = {
                strategy: {"lr": plan.rates[number], "from_epoch": plan.trained_from(number)}
                for strategy, plan in plans.items()
            }
        content = {
            "architecture": name,
            "head": head,
            "parameters": sum(p.numel() for p in network.parameters()),
            "preprocessing": spec.model_dump(mode="json"),
            "blocks": rows,
        }
        typer.echo(json.dumps(content))
        return
    sizes = {k: tuple(v.shape) for k, v in network.state_dict().items() if k in head}
    facts = [
        ["architecture", name],
        ["head", ", ".join(f"{k} {shape}" for k, shape in sizes.items())],
        ["parameters", f"{sum(p.numel() for p in network.parameters()):,}"],
        ["pretrained", f"{weights_entry(name).name} (default)"],
        *_preprocessing(spec),
    ]
    table("Architecture", ["", ""], facts)
    cells = [
        [row["block"], row["modules"], f"{row['parameters']:,}"]
        + [_rate(plan, number) for plan in plans.values()]
        for number, row in enumerate(rows)
    ]
    trained = [
        f"{sum(r['parameters'] for n, r in enumerate(rows) if plan.trained_from(n)):,}"
        for plan in plans.values()
    ]
    columns = ["block", "modules", "parameters", *_STRATEGIES]
    table(
        "Blocks, and the learning rate that each strategy trains them with",
        columns,
        [*cells, ["trained", "", "", *trained]],
    )


def _list_architectures(as_json: bool) -> None:
    from tlserve.cli.console import out
    from tlserve.cli.torch_stack import require_torch

    require_torch()
    from rich.columns import Columns

    from tlserve.zoo.architectures import architectures

    if as_json:
        typer.echo(json.dumps(architectures()))
        return
    out.print(f"The {len(architectures())} architectures of torchvision:")
    out.print(Columns(architectures(), column_first=True), soft_wrap=False)
    out.print("Next: tlserve inspect ARCH")


def _blocks(network: nn.Module, head: tuple[str, ...]) -> tuple[Block, ...]:
    from tlserve.zoo.blocks import ordered_blocks

    return ordered_blocks(network, head)


def _plan(settings: dict[str, Any], network: nn.Module, head: tuple[str, ...]) -> Plan:
    """Tell what settings would train; a rate that is yet to be found counts as the default one."""
    from tlserve.finetune.config import FinetuneConfig
    from tlserve.finetune.strategies import make_plan

    config = FinetuneConfig(data=Path(), name="inspected", **settings).resolved()
    lr = config.lr if isinstance(config.lr, float) else 1.0
    return make_plan(config, _blocks(network, head), lr)


def _rate(plan: Plan, number: int) -> str:
    epoch = plan.trained_from(number)
    if not epoch:
        return "–"
    later = f" from epoch {epoch}" if epoch > 1 else ""
    return f"{plan.rates[number]:.0e}{later}"


def _block_row(network: nn.Module, block: Block) -> dict[str, Any]:
    first, last = block.modules[0], block.modules[-1]
    return {
        "block": block.name,
        "modules": first if first == last else f"{first} … {last}",
        "parameters": sum(network.get_parameter(name).numel() for name in block.parameters),
    }


def _parameters(rows: list[dict[str, Any]] | None, trainable: int) -> str:
    total = "" if rows is None else f"{sum(row['parameters'] for row in rows):,} in all, "
    return f"{total}{trainable:,} trained"


def _strategy(bundle: Bundle) -> str:
    selection = bundle.manifest.selection
    strategy = str(bundle.manifest.training.get("strategy"))
    return (
        strategy if selection is None else f"{strategy}: {selection.strategy}: {selection.reason}"
    )


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
