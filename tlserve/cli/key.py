"""``tlserve key``: make an API key for the service."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def key(
    name: Annotated[str, typer.Argument(help="Whose key it is, for limits and logs.")],
    append: Annotated[
        Path | None,
        typer.Option(help="Add its line to this file of API keys.", show_default=False),
    ] = None,
) -> None:
    """Make an API key for `tlserve serve --api-keys FILE`.

    The key itself is shown once and kept nowhere; the file gets its hash.
    """
    from service.guard import keys

    made, line = keys.make(name)
    if append is not None:
        keys.append(line, append)
    typer.echo(f"key:  {made}")
    typer.echo(f"line: {line}")
