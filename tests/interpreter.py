"""Programs in an interpreter of their own, in which packages can be absent."""

from __future__ import annotations

import subprocess
import sys

_BLOCKER = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocker())
"""


def without(*packages: str) -> str:
    """Give the beginning of a program in which packages cannot be imported."""
    return _BLOCKER.format(absent=set(packages))


def python(program: str, *arguments: str) -> str:
    """Run a program, warnings being errors, and give what it prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, *arguments],
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout
