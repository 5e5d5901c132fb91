"""Where the files are, and the programs that check them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

_NEEDS = {
    "promtool": "Prometheus: make monitoring-tools",
    "prometheus": "Prometheus: make monitoring-tools",
    "docker": "Docker's compose plug-in",
}


def program(name: str) -> str:
    """Find a program, or skip the test that needs it."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"needs {_NEEDS[name]}")
    return found


@pytest.fixture(scope="session")
def compose(repository: Path) -> Path:
    """The folder with the files of Compose."""
    return repository / "deploy" / "compose"


@pytest.fixture(scope="session")
def promtool() -> str:
    return program("promtool")


@pytest.fixture(scope="session")
def prometheus() -> str:
    return program("prometheus")
