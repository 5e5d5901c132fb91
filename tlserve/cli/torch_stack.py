"""Seeing that what training and exporting need is installed."""

from __future__ import annotations

from importlib.util import find_spec

from tlserve.errors import MissingDependencyError

_MODULES = ("torch", "torchvision", "safetensors", "onnx", "onnxscript")


def require_torch() -> None:
    """Check for the extra ``train``.

    Raises:
        MissingDependencyError: A library of it is not installed.
    """
    missing = [name for name in _MODULES if find_spec(name) is None]
    if missing:
        raise MissingDependencyError(
            f"This command needs libraries that are not installed: {', '.join(missing)}.",
            hint="Install the extra: pip install 'tlserve[train]'",
        )
