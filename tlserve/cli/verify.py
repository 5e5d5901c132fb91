"""``tlserve verify``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from tlserve.errors import MissingDependencyError


def verify(
    model: Annotated[Path, typer.Argument(help="The bundle, for example models/<name>.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Compare a bundle's files with their hashes, and its answers with the recorded ones."""
    from tlserve.bundle import Bundle
    from tlserve.cli.console import out, table
    from tlserve.runtime.backend import load_backend
    from tlserve.runtime.golden import check_golden

    bundle = Bundle.read(model)
    bundle.verify()
    backends = ["eager", *(k for k in ("torchscript", "onnx") if bundle.names(k))]
    results: dict[str, dict[str, object]] = {}
    for name in backends:
        try:
            backend = load_backend(bundle, name)
        except MissingDependencyError as error:
            results[name] = {"result": "not run", "remark": error.message}
            continue
        golden = check_golden(bundle, backend)
        results[name] = {
            "result": "pass",
            "images": golden.images,
            "max_abs_diff": golden.max_abs_diff,
            "tolerance": golden.tolerance,
        }
    if not any(r["result"] == "pass" for r in results.values()):
        raise MissingDependencyError(
            f"The hashes are right, but no backend can run to compare the answers: "
            f"{'; '.join(str(r['remark']) for r in results.values())}",
            hint="Install one: pip install 'tlserve[cpu]'",
        )
    manifest = bundle.manifest
    if as_json:
        report = {
            "name": manifest.name,
            "version": manifest.version,
            "files": len(manifest.files),
            "backends": results,
        }
        typer.echo(json.dumps(report))
        return
    out.print(f"{manifest.name} {manifest.version}: {len(manifest.files)} files have their hashes.")
    rows = [
        [
            name,
            str(r["result"]),
            str(r.get("images", "")),
            f"{r['max_abs_diff']:.2g}" if "max_abs_diff" in r else "",
            f"{r['tolerance']:.2g}" if "tolerance" in r else "",
            str(r.get("remark", "")),
        ]
        for name, r in results.items()
    ]
    columns = ["backend", "result", "images", "max |Δlogit|", "allowed", "remark"]
    table("Golden images, from bytes to answer", columns, rows)
