"""The ``tlserve`` command: its subcommands, and what happens when one fails."""

from __future__ import annotations

import signal
import sys
import warnings
from types import FrameType
from typing import Annotated, NoReturn

import typer

import tlserve
from tlserve.cli.bench import bench
from tlserve.cli.console import print_error
from tlserve.cli.containerize import containerize
from tlserve.cli.export import export
from tlserve.cli.finetune import finetune
from tlserve.cli.inspect import inspect
from tlserve.cli.key import key
from tlserve.cli.predict import predict
from tlserve.cli.serve import serve
from tlserve.cli.verify import verify
from tlserve.errors import TlserveError

_INTERRUPTED = 130

app = typer.Typer(
    help="From a folder of labelled images to a tested, batched HTTP prediction endpoint.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (finetune, export, verify, bench, serve, key, containerize, predict, inspect):
    app.command()(command)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tlserve {tlserve.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version.")
    ] = False,
) -> None:
    """From a folder of labelled images to a tested, batched HTTP prediction endpoint."""


def main() -> NoReturn:
    """Run the command line; errors of the user's end in a message and a non-zero exit."""
    # Pillow warns of images that the decoding rules refuse with a clear error of their own.
    warnings.filterwarnings("ignore", message="Image size .* exceeds limit")
    signal.signal(signal.SIGTERM, _terminate)
    try:
        app()
    except TlserveError as error:
        _ignore_signals()
        print_error(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        _ignore_signals()
        print_error(TlserveError("Interrupted: nothing half-written was left behind."))
        sys.exit(_INTERRUPTED)
    except BrokenPipeError:
        # Whoever read our output has gone, as `head` does.
        sys.stderr.close()
        sys.exit(1)
    sys.exit(0)


def _ignore_signals() -> None:
    # The process ends already; another signal would cut its last words off with a traceback.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _terminate(_signal: int, _frame: FrameType | None) -> NoReturn:
    # As an exception it unwinds through the same clean-up as Ctrl-C.
    raise KeyboardInterrupt
