"""``tlserve export``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tlserve.errors import UsageError

if TYPE_CHECKING:
    from export.formats import FormatName


class OnnxPrecision(StrEnum):
    """What an ONNX file computes with."""

    FLOAT32 = "float32"
    FP16 = "fp16"
    INT8 = "int8"


_ONNX: dict[OnnxPrecision, FormatName] = {
    OnnxPrecision.FLOAT32: "onnx",
    OnnxPrecision.FP16: "onnx-fp16",
    OnnxPrecision.INT8: "onnx-int8",
}
_NARROW: frozenset[FormatName] = frozenset(["onnx-fp16", "onnx-int8", "openvino-bf16"])


def export(
    model: Annotated[Path, typer.Argument(help="The bundle, for example models/<name>.")],
    onnx: Annotated[bool, typer.Option("--onnx", help="Write an ONNX file.")] = False,
    openvino: Annotated[
        bool,
        typer.Option(
            "--openvino",
            help="Write model.bf16.xml and its weights, for processors with bfloat16.",
        ),
    ] = False,
    torchscript: Annotated[
        bool, typer.Option("--torchscript", help="Write model.torchscript.pt.")
    ] = False,
    pt2: Annotated[bool, typer.Option("--pt2", help="Write model.pt2, of torch.export.")] = False,
    precision: Annotated[
        list[OnnxPrecision] | None,
        typer.Option(
            help="What the ONNX file computes with; may be given several times.",
            show_default="float32",
        ),
    ] = None,
    auto: Annotated[
        bool,
        typer.Option(
            "--auto",
            help="Write all of them, measure what passes on this machine, and record the fastest, "
            "which `tlserve serve` then runs.",
        ),
    ] = False,
    max_accuracy_drop: Annotated[
        float,
        typer.Option(min=0, help="The points of accuracy that fp16, int8 and bf16 may lose."),
    ] = 0.5,
    p99_ms: Annotated[
        float | None,
        typer.Option(
            help="With --auto: 99 of 100 batches must take no longer.", show_default="any"
        ),
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=0.01, help="With --auto: how long each is measured.")
    ] = 0.9,
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="Where the files run.")] = "cpu",
    calibration_images: Annotated[
        int, typer.Option(min=1, help="How many training images calibrate int8.")
    ] = 128,
    data: Annotated[
        Path | None,
        typer.Option(
            help="The image folder of the training, if it has moved.", show_default="as recorded"
        ),
    ] = None,
    without_validation: Annotated[
        bool,
        typer.Option(
            "--without-validation",
            help="Do not compare the decisions on the validation images; the report says so.",
        ),
    ] = False,
) -> None:
    """Write files that other runtimes read into the bundle, once proven to answer as the model."""
    chosen = _formats(onnx, openvino, torchscript, pt2, precision or [], auto=auto)
    if auto and device == "cuda":
        # OpenVINO runs on processors only.
        chosen.remove("openvino-bf16")
    if p99_ms is not None and not auto:
        raise UsageError(f"--p99-ms {p99_ms:g} says what --auto may choose.", hint="Pass --auto.")
    if p99_ms is not None and p99_ms <= 0:
        raise UsageError(f"--p99-ms {p99_ms:g}: it must be more than 0.")
    if without_validation and (auto or _NARROW & {*chosen}):
        raise UsageError(
            "--without-validation leaves out what fp16, int8, bf16 and --auto are judged by: "
            "accuracy.",
            hint="Leave it out, or say where the images are with --data DIR.",
        )

    from tlserve.cli.torch_stack import require_torch

    require_torch()
    from export.demands import Demands
    from export.run import export as run
    from tlserve.cli.console import out
    from tlserve.cli.proofs import Shown

    demands = Demands(
        data=data,
        without_validation=without_validation,
        max_accuracy_drop=max_accuracy_drop,
        calibration_images=calibration_images,
        device=device,
        choose=auto,
        p99_ms=p99_ms,
        seconds=seconds,
    )
    shown = Shown()
    try:
        bundle = run(model, chosen, demands, progress=shown)
    finally:
        shown.end()
    files = [
        f"{n} ({bundle.manifest.files[n].bytes / 1e6:.1f} MB)"
        for k in chosen
        if k in shown.passed
        for n in bundle.names_read(k)
    ]
    out.print(f"Written: {', '.join(files)}")
    out.print(f"Next: tlserve serve {bundle.path}")


def _formats(
    onnx: bool,
    openvino: bool,
    torchscript: bool,
    pt2: bool,
    precisions: list[OnnxPrecision],
    *,
    auto: bool,
) -> list[FormatName]:
    if auto:
        if onnx or openvino or torchscript or pt2 or precisions:
            raise UsageError("--auto writes every format.", hint="Pass no other format with it.")
        return [*_ONNX.values(), "openvino-bf16", "torchscript", "pt2"]
    if precisions and not onnx:
        raise UsageError(
            f"--precision {precisions[0]} is for ONNX files.",
            hint=f"Pass --onnx --precision {precisions[0]}.",
        )
    chosen: list[FormatName] = []
    if onnx:
        chosen += [_ONNX[p] for p in dict.fromkeys(precisions or [OnnxPrecision.FLOAT32])]
    if openvino:
        chosen.append("openvino-bf16")
    if torchscript:
        chosen.append("torchscript")
    if pt2:
        chosen.append("pt2")
    if not chosen:
        raise UsageError(
            "No format was chosen.",
            hint="Pass --onnx, --openvino, --torchscript, --pt2, or --auto.",
        )
    return chosen
