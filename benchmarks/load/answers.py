"""What servers answer with: where in their JSON the most probable class is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Answer = tuple[str, float]


def _ranked(content: Any) -> Answer:
    first = content["predictions"][0]
    return first["label"], first["probability"]


def _flat(content: Any) -> Answer:
    return content["label"], content["probability"]


def _listed(content: Any) -> Answer:
    (only,) = content
    return _flat(only)


FORMS: dict[str, Callable[[Any], Answer]] = {"ranked": _ranked, "flat": _flat, "listed": _listed}
"""By name: ``tlserve``'s, one object, a list of one object."""
