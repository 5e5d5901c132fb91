"""``tlserve export``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tlserve.errors import UsageError

if TYPE_CHECKING:
    from export.formats import FormatName
    from export.run import Parity


def export(
    model: Annotated[Path, typer.Argument(help="The bundle, for example models/<name>.")],
    onnx: Annotated[bool, typer.Option("--onnx", help="Write model.onnx.")] = False,
    torchscript: Annotated[
        bool, typer.Option("--torchscript", help="Write model.torchscript.pt.")
    ] = False,
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
    """Write ONNX and TorchScript files into the bundle, once proven to answer as the model."""
    chosen: list[FormatName] = []
    if onnx:
        chosen.append("onnx")
    if torchscript:
        chosen.append("torchscript")
    if not chosen:
        raise UsageError("No format was chosen.", hint="Pass --onnx, --torchscript, or both.")

    from tlserve.cli.torch_stack import require_torch

    require_torch()
    from export.run import Progress
    from export.run import export as run
    from tlserve.cli.console import Bar, out

    bar = Bar()

    class Shown(Progress):
        begin, advance, end = bar.begin, bar.advance, bar.end

        def parity(self, results: Sequence[Parity]) -> None:
            _print_parity(results)

    try:
        bundle = run(
            model, chosen, data=data, without_validation=without_validation, progress=Shown()
        )
    finally:
        bar.end()
    files = [
        f"{n} ({bundle.manifest.files[n].bytes / 1e6:.1f} MB)"
        for k in chosen
        for n in bundle.names(k)
    ]
    out.print(f"Written: {', '.join(files)}")
    out.print(f"Next: tlserve serve {bundle.path}")


def _print_parity(results: Sequence[Parity]) -> None:
    from tlserve.cli.console import table

    words = {True: "pass", False: "FAIL", None: "not run"}
    rows = [
        [
            result.format,
            level.name,
            words[level.passed],
            str(level.compared),
            f"{level.max_abs_diff:.2g}" if level.tolerance else "",
            f"{level.tolerance:.2g}" if level.tolerance else "",
            level.remark,
        ]
        for result in results
        for level in result.levels
    ]
    columns = ["file", "level", "result", "inputs", "max |Δlogit|", "allowed", "remark"]
    table("Parity with the trained model", columns, rows)
