"""Fixtures that every test may use."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.folders import write_parts

REPOSITORY = Path(__file__).resolve().parent.parent

_ON_DEMAND = ("container", "giant", "zoo")
"""Markers of tests that run only if -m names them."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what takes too long for every run, unless it is asked for."""
    asked = config.getoption("markexpr")
    unasked = [marker for marker in _ON_DEMAND if marker not in asked]
    left_out = [item for item in items if any(map(item.get_closest_marker, unasked))]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the repository."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared() -> Path:
    """The photographs and weights that lie beside the repository."""
    path = REPOSITORY.parent / "shared"
    if not (path / "data" / "hymenoptera").is_dir():
        reason = f"needs {path.name}/ beside the repository"
        if os.environ.get("CI"):
            pytest.fail(f"{reason}; in CI it must be there")
        pytest.skip(reason)
    return path


@pytest.fixture(scope="session")
def photographs(shared: Path) -> list[Path]:
    """The validation photographs of ants and bees, in the order of their names."""
    return sorted((shared / "data" / "hymenoptera" / "val").glob("*/*.jpg"))


@pytest.fixture(scope="session")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image folder with ``train/`` and ``val/``; not to be changed."""
    return write_parts(tmp_path_factory.mktemp("data") / "colours")


@pytest.fixture(scope="session")
def trained(colours: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that was really fine-tuned, from random weights; copy it to change it."""
    from tlserve.finetune.config import FinetuneConfig
    from tlserve.finetune.events import Events
    from tlserve.finetune.run import finetune

    home = tmp_path_factory.mktemp("trained")
    config = FinetuneConfig(
        data=colours,
        name="colours",
        weights="none",
        strategy="full",
        lr=1e-3,
        epochs=3,
        batch_size=8,
        image_size=32,
        workers=0,
        output=home / "models",
        runs=home / "runs",
    )
    return finetune(config, Events()).path


@pytest.fixture(scope="session")
def exported(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same bundle with all exported files; copy it to change it."""
    from export.formats import FORMATS
    from export.run import export
    from tests.processor import here

    copy = tmp_path_factory.mktemp("exported") / "colours"
    shutil.copytree(trained, copy)
    return export(copy, [name for name in FORMATS if name in here(*FORMATS)]).path
