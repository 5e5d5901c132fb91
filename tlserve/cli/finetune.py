"""``tlserve finetune``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from tlserve.errors import TlserveError, UsageError

_STRATEGY = "Strategy"
_OPTIMISATION = "Optimisation"
_IMAGES = "Images"
_PLACE = "Where and on what"
_OUTPUT = "What is told meanwhile"

_NO_SETTINGS = frozenset({"data", "config", "quiet", "as_json", "tensorboard"})
"""Options that are not settings of a run: a file cannot give them, and none is recorded."""


def finetune(
    context: typer.Context,
    data: Annotated[
        Path | None,
        typer.Argument(
            help="Images: DATA/<class>/*, or DATA/train/<class>/* and DATA/val/…",
            show_default=False,
        ),
    ] = None,
    arch: Annotated[
        str, typer.Option(help="The architecture; `tlserve inspect` lists them.")
    ] = "resnet18",
    weights: Annotated[
        str,
        typer.Option(
            help="DEFAULT, a torchvision weights name, a file (.pth, .safetensors), or none."
        ),
    ] = "DEFAULT",
    name: Annotated[
        str | None, typer.Option(help="The bundle's name.", show_default="<data>-<arch>")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="A file of these settings (.toml, .yaml, .json), or a bundle, to train as it was "
            "trained. Options given beside it win."
        ),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            help="Go on with an interrupted run, runs/<name>, as it was begun; beside it: "
            "--device, --workers, --cache-budget, --save-every, --time-limit, --overwrite, and "
            "DATA if the images are elsewhere now."
        ),
    ] = None,
    strategy: Annotated[
        Literal["feature-extraction", "partial", "discriminative", "full", "gradual", "auto"],
        typer.Option(
            help="What is trained: the head; the last blocks; all, slower with depth; all; all, "
            "unfrozen from the top; or what a linear probe says.",
            rich_help_panel=_STRATEGY,
        ),
    ] = "feature-extraction",
    unfreeze: Annotated[
        int | None,
        typer.Option(
            help="partial: train so many of the last blocks, the head included.",
            show_default="a third",
            rich_help_panel=_STRATEGY,
        ),
    ] = None,
    freeze: Annotated[
        int | None,
        typer.Option(
            help="partial: do not train so many of the first blocks.", rich_help_panel=_STRATEGY
        ),
    ] = None,
    layer_decay: Annotated[
        float | None,
        typer.Option(
            help="Each block's learning rate as a share of the one above it.",
            show_default="the strategy's",
            rich_help_panel=_STRATEGY,
        ),
    ] = None,
    budget: Annotated[
        float,
        typer.Option(
            help="auto: fine-tune only if it will take at most so many minutes.",
            rich_help_panel=_STRATEGY,
        ),
    ] = 60.0,
    epochs: Annotated[
        int, typer.Option(help="At most so many.", rich_help_panel=_OPTIMISATION)
    ] = 20,
    batch_size: Annotated[
        str,
        typer.Option(
            help="Images a step, or auto: as many as the GPU's memory holds.",
            rich_help_panel=_OPTIMISATION,
        ),
    ] = "32",
    lr: Annotated[
        str | None,
        typer.Option(
            help="The head's learning rate, or find: by a range test.",
            show_default="the strategy's",
            rich_help_panel=_OPTIMISATION,
        ),
    ] = None,
    sweep: Annotated[
        bool,
        typer.Option(
            "--sweep/--no-sweep",
            help="First try learning rates around --lr, each with several weight decays; keep the "
            "best by validation. Seconds where frozen blocks are kept.",
            rich_help_panel=_OPTIMISATION,
        ),
    ] = False,
    optimizer: Annotated[
        Literal["sgd", "adam", "adamw"] | None,
        typer.Option(
            help="The optimiser.",
            show_default="adam for the head, adamw",
            rich_help_panel=_OPTIMISATION,
        ),
    ] = None,
    weight_decay: Annotated[
        float | None,
        typer.Option(
            help="Not of biases and normalisation.",
            show_default="adamw 1e-2, sgd 1e-4, adam 0",
            rich_help_panel=_OPTIMISATION,
        ),
    ] = None,
    momentum: Annotated[float, typer.Option(help="SGD's.", rich_help_panel=_OPTIMISATION)] = 0.9,
    schedule: Annotated[
        Literal["plateau", "cosine", "step", "constant"] | None,
        typer.Option(
            help="How the learning rates change.",
            show_default="plateau for the head, cosine",
            rich_help_panel=_OPTIMISATION,
        ),
    ] = None,
    warmup: Annotated[
        float | None,
        typer.Option(
            help="Epochs in which the rates rise.",
            show_default="a tenth, at most 1, of cosine",
            rich_help_panel=_OPTIMISATION,
        ),
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(
            help="Stop after so many epochs without a better one; 0: never.",
            show_default="6 with plateau, else 0",
            rich_help_panel=_OPTIMISATION,
        ),
    ] = None,
    clip_grad: Annotated[
        float | None,
        typer.Option(
            help="Largest norm of the gradient; 0: any.",
            show_default="0",
            rich_help_panel=_OPTIMISATION,
        ),
    ] = None,
    ema: Annotated[
        float | None,
        typer.Option(
            help="Decay of a moving average of the weights, which is then kept; 0: none.",
            show_default="0",
            rich_help_panel=_OPTIMISATION,
        ),
    ] = None,
    precision: Annotated[
        Literal["auto", "float32", "bf16", "fp16"],
        typer.Option(
            help="Of training; auto: bf16 on a GPU that has it.", rich_help_panel=_OPTIMISATION
        ),
    ] = "auto",
    compile: Annotated[
        bool,
        typer.Option(
            help="Compile what is trained: minutes at first, then faster steps on a GPU.",
            rich_help_panel=_OPTIMISATION,
        ),
    ] = False,
    label_smoothing: Annotated[
        float | None,
        typer.Option(
            help="Share of the target that is spread over all classes.",
            show_default="0 for the head, 0.1",
            rich_help_panel=_OPTIMISATION,
        ),
    ] = None,
    balance: Annotated[
        Literal["none", "class-weights", "sampler"],
        typer.Option(
            help="Against classes of different sizes: weigh the loss, or draw rare ones more "
            "often.",
            rich_help_panel=_OPTIMISATION,
        ),
    ] = "none",
    image_size: Annotated[
        int | None,
        typer.Option(
            help="Side of the input in pixels.",
            show_default="the weights' own",
            rich_help_panel=_IMAGES,
        ),
    ] = None,
    flip: Annotated[
        bool, typer.Option(help="Mirror images at random in training.", rich_help_panel=_IMAGES)
    ] = True,
    min_scale: Annotated[
        float,
        typer.Option(
            help="Smallest share of an image's area that a random crop keeps.",
            rich_help_panel=_IMAGES,
        ),
    ] = 0.35,
    auto_augment: Annotated[
        Literal["none", "randaugment", "trivialaugment"],
        typer.Option(help="A policy of more augmentations.", rich_help_panel=_IMAGES),
    ] = "none",
    mixup: Annotated[
        float, typer.Option(help="Mixup's alpha; 0: none.", rich_help_panel=_IMAGES)
    ] = 0.0,
    cutmix: Annotated[
        float, typer.Option(help="CutMix's alpha; 0: none.", rich_help_panel=_IMAGES)
    ] = 0.0,
    views: Annotated[
        int | None,
        typer.Option(
            help="Augmented views of each image, where what frozen blocks make of it is kept.",
            show_default="one for 8 epochs, from 2 to 16",
            rich_help_panel=_IMAGES,
        ),
    ] = None,
    jpeg_draft: Annotated[
        int | None,
        typer.Option(
            help="Decode JPEG at the smallest DCT scale that is N times the input or larger: "
            "faster for large photographs, here and when serving.",
            show_default="off",
            rich_help_panel=_IMAGES,
        ),
    ] = None,
    val_fraction: Annotated[
        float,
        typer.Option(
            help="Share of each class that is split off where there is no val/.",
            rich_help_panel=_IMAGES,
        ),
    ] = 0.2,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict/--no-strict",
            help="Fail on a file that is no readable image.",
            rich_help_panel=_IMAGES,
        ),
    ] = False,
    seed: Annotated[
        int,
        typer.Option(help="Of the split, the head, the order, the crops.", rich_help_panel=_PLACE),
    ] = 0,
    deterministic: Annotated[
        bool,
        typer.Option(
            "--deterministic/--no-deterministic",
            help="Use only algorithms that give the same each time on a GPU, though slower; on a "
            "CPU they all do.",
            rich_help_panel=_PLACE,
        ),
    ] = False,
    device: Annotated[
        Literal["auto", "cpu", "cuda"], typer.Option(help="Where.", rich_help_panel=_PLACE)
    ] = "auto",
    workers: Annotated[
        int | None,
        typer.Option(
            help="Processes that load images.",
            show_default="by a measurement",
            rich_help_panel=_PLACE,
        ),
    ] = None,
    output: Annotated[
        Path, typer.Option(help="The folder for the bundle.", rich_help_panel=_PLACE)
    ] = Path("models"),
    runs: Annotated[
        Path,
        typer.Option(
            help="The folder for the best checkpoint and the history meanwhile.",
            rich_help_panel=_PLACE,
        ),
    ] = Path("runs"),
    cache: Annotated[
        Literal["auto", "float32", "float16", "off"],
        typer.Option(
            help="How to keep what frozen blocks make of the images, in the folder of the runs; "
            "auto: float32 where there is room, else float16.",
            rich_help_panel=_PLACE,
        ),
    ] = "auto",
    image_cache: Annotated[
        Literal["auto", "reduced", "off"],
        typer.Option(
            help="Which decoded images are kept there, where each epoch reads them; auto: as they "
            "are, if there is room; reduced: large ones smaller, which changes them a little.",
            rich_help_panel=_PLACE,
        ),
    ] = "auto",
    cache_budget: Annotated[
        float,
        typer.Option(help="The room for both caches together, in GB.", rich_help_panel=_PLACE),
    ] = 20.0,
    time_limit: Annotated[
        str | None,
        typer.Option(
            help="Stop training so long after the start (90s, 10m, 1h30m), and keep the best.",
            show_default="none",
            rich_help_panel=_PLACE,
        ),
    ] = None,
    save_every: Annotated[
        float,
        typer.Option(
            help="Within an epoch, save the state after so many minutes; it is saved after each.",
            rich_help_panel=_PLACE,
        ),
    ] = 5.0,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Replace a bundle, or an unfinished run, of the same name.",
            rich_help_panel=_PLACE,
        ),
    ] = False,
    quiet: Annotated[
        bool,
        typer.Option("--quiet", help="Print nothing but errors.", rich_help_panel=_OUTPUT),
    ] = False,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json", help="Print each event as a JSON object on a line.", rich_help_panel=_OUTPUT
        ),
    ] = False,
    tensorboard: Annotated[
        bool,
        typer.Option(
            "--tensorboard/--no-tensorboard",
            help="Log each epoch for TensorBoard, in <runs>/<name>/tensorboard.",
            rich_help_panel=_OUTPUT,
        ),
    ] = True,
) -> None:
    """Fine-tune a pretrained network on a folder of images; write the bundle models/<name>."""
    if quiet and as_json:
        raise UsageError("--quiet and --json exclude each other.", hint="Pass one of them.")
    from tlserve.cli.reporting import make_report

    report = make_report(quiet=quiet, as_json=as_json)
    try:
        from tlserve.cli.torch_stack import require_torch

        require_torch()
        from tlserve.cli import training

        if resume is None:
            training.begin(context, report, data, config, tensorboard=tensorboard)
        else:
            training.resume(context, report, resume, tensorboard=tensorboard)
    except TlserveError as error:
        report.failed(error)
        raise
