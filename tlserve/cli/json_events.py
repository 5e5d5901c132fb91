"""A run as JSON lines on standard output; docs/finetune-output.md describes each."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer

from tlserve.bundle.manifest import Epoch, Scalar
from tlserve.cli.reporting import Report
from tlserve.data.check import Problem
from tlserve.errors import TlserveError

if TYPE_CHECKING:
    from tlserve.bundle import Bundle


class JsonReport(Report):
    """Prints each event as one JSON object on a line of its own, at once."""

    def message(self, text: str) -> None:
        """Print ``message``."""
        _print("message", text=text)

    def problems(self, problems: Sequence[Problem]) -> None:
        """Print ``problems``, if there are any."""
        if problems:
            _print("problems", problems=[vars(problem) for problem in problems])

    def settings(self, settings: Mapping[str, Scalar]) -> None:
        """Print ``settings``."""
        _print("settings", settings=dict(settings))

    def begin(self, task: str, total: int) -> None:
        """Print ``begin``."""
        _print("begin", task=task, images=total)

    def begin_epoch(self, number: int, epochs: int, images: int) -> None:
        """Print ``begin`` with the number of the epoch."""
        _print("begin", task="epoch", images=images, epoch=number, epochs=epochs)

    def epoch(self, epoch: Epoch, epochs: int, *, best: bool) -> None:
        """Print ``epoch``."""
        super().epoch(epoch, epochs, best=best)
        _print("epoch", **epoch.model_dump(), epochs=epochs, best=best)

    def bundle(self, bundle: Bundle) -> None:
        """Print ``bundle``."""
        metrics = bundle.manifest.metrics
        _print(
            "bundle",
            path=str(bundle.path),
            name=bundle.manifest.name,
            version=bundle.manifest.version,
            accuracy=metrics.val_accuracy,
            correct=metrics.val_correct,
            images=metrics.val_images,
            best_epoch=metrics.best_epoch,
        )

    def failed(self, error: TlserveError) -> None:
        """Print ``error``."""
        _print("error", message=error.message, hint=error.hint)


def _print(event: str, **fields: Any) -> None:
    # Escaped to ASCII: a file's name need not be valid in the encoding of the output.
    typer.echo(json.dumps({"event": event, **fields}, allow_nan=False))
