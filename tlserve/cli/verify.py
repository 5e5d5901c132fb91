"""``tlserve verify``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from tlserve.errors import ParityError


def verify(
    model: Annotated[Path, typer.Argument(help="The bundle, for example models/<name>.")],
    data: Annotated[
        Path | None,
        typer.Option(
            help="The image folder of the training, to compare its validation images.",
            show_default="as recorded, if it is there",
        ),
    ] = None,
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="Where to run.")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Compare a bundle's files with their hashes, and its answers with the trained model's.

    The exit code is 0 only if everything that could be compared is as it was.
    """
    from export.verify import verify as run
    from tlserve.bundle import Bundle
    from tlserve.cli.console import out
    from tlserve.cli.proofs import Shown, print_parity

    bundle = Bundle.read(model)
    shown = Shown()
    try:
        results = run(bundle, data=data, device=device, progress=shown)
    finally:
        shown.end()
    manifest = bundle.manifest
    failed = [result for result in results if not result.passed]
    if as_json:
        report = {
            "name": manifest.name,
            "version": manifest.version,
            "files": len(manifest.files),
            "passed": not failed,
            "results": [asdict(r) | {"passed": r.passed} for r in results],
        }
        typer.echo(json.dumps(report, ensure_ascii=False))
    else:
        out.print(
            f"{manifest.name} {manifest.version}: {len(manifest.files)} files have their hashes."
        )
        print_parity(results)
    if failed:
        raise ParityError(
            "\n".join(result.failure for result in failed),
            hint="Export the model again; if it stays, compare the library versions in its "
            "bundle.json.",
        )
