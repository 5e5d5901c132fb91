"""``tlserve bench``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from tlserve.errors import UsageError

_ROUNDS = 3


def bench(
    model: Annotated[Path, typer.Argument(help="The bundle, for example models/<name>.")],
    backend: Annotated[
        list[str] | None,
        typer.Option(
            help="What runs the model; may be given several times.",
            show_default="as `tlserve serve` would",
        ),
    ] = None,
    device: Annotated[
        Literal["cpu", "cuda"] | None, typer.Option(help="Where.", show_default="likewise")
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="Threads for one batch on the CPU.", show_default="likewise"),
    ] = None,
    batch: Annotated[
        str, typer.Option(help="Images in a batch: numbers between commas.")
    ] = "1,2,4,8,16,32",
    seconds: Annotated[float, typer.Option(min=0.01, help="How long each is measured.")] = 3.0,
    plot: Annotated[Path | None, typer.Option(help="Write a PNG file, too.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure images a second and latency by batch size; the answers are checked meanwhile."""
    sizes = _sizes(batch)
    if plot is not None:
        if not plot.parent.is_dir():
            raise UsageError(
                f"--plot {plot}: there is no folder {plot.parent}.",
                hint="Make it, or choose another.",
            )
        from tlserve.report.plotting import require_matplotlib

        require_matplotlib()
    from tlserve.bundle import Bundle
    from tlserve.cli.console import Bar, out, table
    from tlserve.cli.proofs import SPEED_COLUMNS, speed_cells
    from tlserve.runtime.backend import load_backend
    from tlserve.runtime.golden import check_golden, golden_tensors
    from tlserve.runtime.measure import Subject, measure
    from tlserve.runtime.serving import resolve

    bundle = Bundle.read(model)
    names: list[str | None] = [*backend] if backend else [None]
    settings = [resolve(bundle, name, device, threads) for name in names]
    subjects = []
    for chosen in settings:
        loaded = load_backend(bundle, chosen.backend, chosen.device, chosen.threads)
        check_golden(bundle, loaded)
        subjects.append(Subject(loaded, chosen.threads, chosen.lanes))
    bar = Bar()
    bar.begin("measuring", len(subjects) * len(sizes) * _ROUNDS)
    try:
        found = measure(
            subjects,
            golden_tensors(bundle),
            sizes,
            rounds=_ROUNDS,
            seconds=seconds / _ROUNDS,
            advance=bar.advance,
        )
    finally:
        bar.end()
    manifest = bundle.manifest
    if plot is not None:
        from tlserve.report.throughput import draw_throughput

        draw_throughput(found, f"{manifest.name} {manifest.version}", plot)
    if as_json:
        report = {
            "name": manifest.name,
            "version": manifest.version,
            "measurements": [asdict(m) for m in found],
        }
        typer.echo(json.dumps(report))
        return
    rows = [
        [
            m.backend,
            m.device,
            str(m.threads),
            str(m.streams),
            str(m.batch),
            *speed_cells(m),
            str(m.batches),
        ]
        for m in found
    ]
    columns = ["backend", "device", "threads", "side by side", "batch", *SPEED_COLUMNS, "batches"]
    table(f"{manifest.name} {manifest.version}, without HTTP and decoding", columns, rows)
    if plot is not None:
        out.print(f"Written: {plot}")


def _sizes(text: str) -> list[int]:
    try:
        sizes = [int(part) for part in text.split(",")]
    except ValueError:
        sizes = []
    if not sizes or min(sizes) < 1:
        raise UsageError(
            f"--batch {text}: it must be numbers from 1, between commas.",
            hint="For example --batch 1,8,32.",
        )
    return sorted(set(sizes))
