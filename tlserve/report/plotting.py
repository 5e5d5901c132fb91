"""Drawing with Matplotlib, an optional extra."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from tlserve.bundle.files import replacing
from tlserve.errors import MissingDependencyError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DOTS_PER_INCH = 150


def require_matplotlib() -> None:
    """Check for the extra ``plots``.

    Raises:
        MissingDependencyError: It is not installed.
    """
    if find_spec("matplotlib") is None:
        raise MissingDependencyError(
            "Plots need the library 'matplotlib', which is not installed.",
            hint="Install the extra: pip install 'tlserve[plots]'",
        )


@contextmanager
def png(path: Path, width: float, height: float) -> Iterator[Figure]:
    """Draw on a figure; it is then written, whole or not at all.

    Args:
        path: The PNG file.
        width: In inches.
        height: In inches.

    Raises:
        StorageError: The disk refused.
    """
    # Not pyplot: it looks for a screen, and keeps every figure.
    from matplotlib.figure import Figure

    figure = Figure((width, height), layout="constrained")
    yield figure
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=_DOTS_PER_INCH)
