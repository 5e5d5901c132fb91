"""``tlserve containerize``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from tlserve.container.build import Image
    from tlserve.container.builders import Builder
    from tlserve.container.plan import Plan

_PANEL = "What is built"
_HOW = "How"


def containerize(
    model: Annotated[Path, typer.Argument(help="The bundle, for example models/<name>.")],
    flavour: Annotated[
        str,
        typer.Option(
            help="cpu (ONNX Runtime), gpu (ONNX Runtime with CUDA) or torch (TorchScript, pt2, "
            "eager; with CUDA).",
            rich_help_panel=_PANEL,
        ),
    ] = "cpu",
    backend: Annotated[
        str | None,
        typer.Option(
            help="What runs the model.",
            show_default="as `tlserve export --auto` chose, else the flavour's first",
            rich_help_panel=_PANEL,
        ),
    ] = None,
    tag: Annotated[
        str | None,
        typer.Option(
            help="The image's name.",
            show_default="<name>:<version>-<flavour>",
            rich_help_panel=_PANEL,
        ),
    ] = None,
    base: Annotated[
        str,
        typer.Option(
            help="The image to build on, with Python 3.11 to 3.13; best with its digest, "
            "…@sha256:….",
            rich_help_panel=_PANEL,
        ),
    ] = "python:3.11-slim",
    label: Annotated[
        list[str] | None,
        typer.Option(
            help="KEY=VALUE, for the image to say of itself. Repeatable.", rich_help_panel=_PANEL
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            help="The folder for Dockerfile, Bento and list of packages.",
            show_default="containers/<name>-<flavour>",
            rich_help_panel=_HOW,
        ),
    ] = None,
    dockerfile_only: Annotated[
        bool,
        typer.Option(
            "--dockerfile-only",
            help="Write that folder, and build no image.",
            rich_help_panel=_HOW,
        ),
    ] = False,
    builder: Annotated[
        str | None,
        typer.Option(
            help="docker, podman or buildah.",
            show_default="the first of them that is installed",
            rich_help_panel=_HOW,
        ),
    ] = None,
    pip_config: Annotated[
        Path | None,
        typer.Option(
            help="A pip.conf that says where packages come from; none of it stays in the image.",
            show_default="pip's own configuration here",
            rich_help_panel=_HOW,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Make a Bento and a container image of a model.

    The bundle is verified in the image while it is built: where an answer is not the recorded one,
    there is no image.
    """
    from tlserve.bundle import Bundle
    from tlserve.cli.console import err
    from tlserve.container import index, labels
    from tlserve.container.build import build
    from tlserve.container.builders import find_builder
    from tlserve.container.context import check_place, write_context
    from tlserve.container.plan import make_plan

    plan = make_plan(
        Bundle.read(model),
        flavour,
        backend=backend,
        base=base,
        tag=tag,
        created=labels.created_at(os.environ),
        extra_labels=labels.given(label or []),
    )
    folder = output or Path("containers") / f"{plan.bundle.manifest.name}-{flavour}"
    check_place(folder)
    # What is missing is said before anything is written.
    program = None if dockerfile_only else find_builder(builder)
    reached = index.from_file(pip_config) if pip_config else index.from_machine(os.environ)
    write_context(plan, folder)
    image = None
    if program is not None:
        err.print(f"{program.name} builds {plan.tag} from {folder}", markup=False)
        tell = lambda line: err.print(line, style="dim", markup=False)  # noqa: E731
        image = build(plan, folder, program, reached, tell, os.environ)
    if as_json:
        typer.echo(json.dumps(_report(plan, folder, image), ensure_ascii=False))
    else:
        _show(plan, folder, image, program)


def _report(plan: Plan, folder: Path, image: Image | None) -> dict[str, object]:
    return {
        "name": plan.bundle.manifest.name,
        "version": plan.bundle.manifest.version,
        "flavour": plan.flavour,
        "backend": plan.choice.backend,
        "base": plan.base,
        "context": str(folder),
        "bento": str(folder / "bento"),
        "labels": dict(plan.labels),
        "image": None
        if image is None
        else {
            "tag": image.tag,
            "id": image.id,
            "bytes": image.bytes,
            "sbom": str(image.sbom),
        },
    }


def _show(plan: Plan, folder: Path, image: Image | None, program: Builder | None) -> None:
    from rich.markup import escape

    from tlserve.cli.console import out, table

    manifest = plan.bundle.manifest
    rows = [
        ["model", f"{manifest.name} {manifest.version}"],
        ["runs", f"{plan.choice.backend} on {plan.kind.device}"],
        ["context", str(folder)],
        ["bento", str(folder / "bento")],
    ]
    if image is None or program is None:
        table("", ["", "written"], rows)
        out.print(f"Next: docker build --tag {escape(plan.tag)} {escape(str(folder))}")
        return
    rows += [
        ["image", image.tag],
        ["id", image.id],
        ["size", f"{image.bytes / 1e6:.0f} MB, with its base" if image.bytes else "not known"],
        ["base", plan.base],
        ["packages", str(image.sbom)],
    ]
    table("", ["", "built"], rows)
    runner = program.name if program.runs else "podman"
    out.print(f"Next: {escape(plan.run_command(runner))}")
