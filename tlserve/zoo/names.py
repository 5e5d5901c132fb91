"""Names of architectures."""

from __future__ import annotations

import difflib
from collections.abc import Sequence


def is_timm(name: str) -> bool:
    """Tell whether an architecture is one of timm's rather than torchvision's."""
    return name.startswith("timm/")


def nearest(name: str, known: Sequence[str]) -> list[str]:
    """Find up to three known names that are like ``name``, the likeliest first."""
    wanted = name.lower().replace("-", "_")
    near = [other for other in known if wanted and other.startswith(wanted)][:3]
    return near or difflib.get_close_matches(wanted, known, n=3, cutoff=0.5)
