"""``tlserve finetune``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from tlserve.bundle import Bundle


def finetune(
    data: Annotated[
        Path,
        typer.Argument(help="Images: DATA/<class>/*, or DATA/train/<class>/* and DATA/val/…"),
    ],
    arch: Annotated[str, typer.Option(help="The torchvision architecture.")] = "resnet18",
    weights: Annotated[
        str,
        typer.Option(
            help="DEFAULT, a torchvision weights name, a file (.pth, .safetensors), or none."
        ),
    ] = "DEFAULT",
    strategy: Annotated[
        Literal["feature-extraction", "full"],
        typer.Option(help="What is trained: the head, or all."),
    ] = "feature-extraction",
    epochs: Annotated[int, typer.Option(help="At most so many.")] = 20,
    batch_size: Annotated[int, typer.Option(help="Images a step.")] = 32,
    lr: Annotated[
        float | None,
        typer.Option(help="Learning rate.", show_default="1e-3 for the head, 1e-4 full"),
    ] = None,
    patience: Annotated[
        int, typer.Option(help="Stop after so many epochs without a better one.")
    ] = 6,
    image_size: Annotated[
        int | None,
        typer.Option(help="Side of the input in pixels.", show_default="the weights' own"),
    ] = None,
    flip: Annotated[bool, typer.Option(help="Mirror images at random in training.")] = True,
    min_scale: Annotated[
        float, typer.Option(help="Smallest share of an image's area that a random crop keeps.")
    ] = 0.35,
    jpeg_draft: Annotated[
        int | None,
        typer.Option(
            help="Decode JPEG at the smallest DCT scale that is N times the input or larger: "
            "faster for large photographs, here and when serving.",
            show_default="off",
        ),
    ] = None,
    val_fraction: Annotated[
        float, typer.Option(help="Share of each class that is split off where there is no val/.")
    ] = 0.2,
    strict: Annotated[
        bool, typer.Option("--strict", help="Fail on a file that is no readable image.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the split, the head, the order, the crops.")] = 0,
    device: Annotated[
        Literal["auto", "cpu", "cuda"], typer.Option(help="Where to train.")
    ] = "auto",
    workers: Annotated[
        int | None, typer.Option(help="Processes that load images.", show_default="one a processor")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="The bundle's name.", show_default="<data>-<arch>")
    ] = None,
    output: Annotated[Path, typer.Option(help="The folder for the bundle.")] = Path("models"),
    runs: Annotated[
        Path, typer.Option(help="The folder for the best checkpoint and the history meanwhile.")
    ] = Path("runs"),
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a bundle of the same name.")
    ] = False,
) -> None:
    """Fine-tune a pretrained network on a folder of images; write the bundle models/<name>."""
    from tlserve.cli.console import out
    from tlserve.cli.torch_stack import require_torch

    require_torch()
    from tlserve.cli.reporting import Reporter
    from tlserve.finetune.config import FinetuneConfig
    from tlserve.finetune.run import finetune as run

    config = FinetuneConfig(
        data=data,
        name=name or f"{data.resolve().name or 'model'}-{arch}",
        arch=arch,
        weights=weights,
        strategy=strategy,
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        patience=patience,
        val_fraction=val_fraction,
        image_size=image_size,
        flip=flip,
        min_scale=min_scale,
        jpeg_draft=jpeg_draft,
        strict=strict,
        workers=workers,
        seed=seed,
        device=device,
        output=output,
        runs=runs,
        overwrite=overwrite,
    )
    reporter = Reporter()
    try:
        bundle = run(config, reporter)
    except KeyboardInterrupt:
        reporter.end()
        best = config.runs / config.name / "best.safetensors"
        if reporter.best_epoch:
            out.print(
                f"Interrupted. The best epoch so far ({reporter.best_epoch}) is kept in {best}; "
                f"start from it with --weights {best}."
            )
        raise
    finally:
        reporter.end()
    _summary(bundle)


def _summary(bundle: Bundle) -> None:
    from tlserve.cli.console import out

    metrics = bundle.manifest.metrics
    out.print(
        f"Best: epoch {metrics.best_epoch}, {metrics.val_correct} of {metrics.val_images} "
        f"validation images right ({metrics.val_accuracy:.1%})."
    )
    out.print(f"Bundle: {bundle.path} (version {bundle.manifest.version})")
    out.print(f"Next: tlserve export {bundle.path} --onnx --torchscript")
