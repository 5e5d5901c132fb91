"""One image for all tests of it, built by the command line without a daemon."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.container import debian, packages
from tests.container.packages import PrivateIndex
from tests.container.runtime import Container, Root, running

_TOOLS = ("buildah", "debootstrap", "runc")


@dataclass(frozen=True)
class Workshop:
    """Where images are built.

    Attributes:
        environment: Of the builder: a store of its own.
        index: Where packages come from.
        pip_config: What says so.
    """

    environment: Mapping[str, str]
    index: PrivateIndex
    pip_config: Path

    def containerize(
        self, bundle: Path, output: Path, *options: str
    ) -> subprocess.CompletedProcess[str]:
        """Run the real command."""
        fixed = ["--builder", "buildah", "--base", debian.BASE, "--pip-config", self.pip_config]
        command = [sys.executable, "-m", "tlserve", "containerize", bundle, "--output", output]
        return subprocess.run(
            [*map(str, [*command, *fixed]), *options],
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            check=False,
        )

    def buildah(self, *arguments: str | Path) -> str:
        return debian.run(["buildah", *arguments], self.environment)

    def layer_sizes(self, tag: str) -> list[int]:
        """Give the bytes of an image's layers."""
        described = json.loads(self.buildah("inspect", "--type", "image", tag))
        return [layer["size"] for layer in json.loads(described["Manifest"])["layers"]]

    def root(self, tag: str) -> Root:
        """Mount an image."""
        described = json.loads(self.buildah("inspect", "--type", "image", tag))
        container = self.buildah("from", tag)
        return Root(Path(self.buildah("mount", container)), described["Docker"]["config"])


@dataclass(frozen=True)
class Built:
    """An image, and what the command said of it."""

    report: dict[str, Any]
    context: Path
    log: str
    tag: str


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    missing = [tool for tool in _TOOLS if not shutil.which(tool)]
    if missing or os.geteuid() != 0:
        pytest.skip(f"needs root and: apt-get install {' '.join(_TOOLS)}; `make container-test`")
    home = tmp_path_factory.mktemp("store")
    driver = os.environ.get("STORAGE_DRIVER") or debian.storage_driver(home)
    configuration = home / "storage.conf"
    configuration.write_text(
        f'[storage]\ndriver = "{driver}"\ngraphroot = "{home}/graph"\nrunroot = "{home}/run"\n'
    )
    environment = {
        "CONTAINERS_STORAGE_CONF": str(configuration),
        "STORAGE_DRIVER": driver,
        "BUILDAH_ISOLATION": "chroot",
        "SOURCE_DATE_EPOCH": "1700000000",
    }
    try:
        debian.make_base(environment, home)
        with packages.serving(packages.wheels(environment, home)) as index:
            yield Workshop(environment, index, index.pip_config(home / "pip.conf"))
    finally:
        # Gigabytes, of which pytest would keep three.
        for command in (
            ["buildah", "umount", "--all"],
            ["buildah", "rm", "--all"],
            ["umount", "--recursive", str(home / "graph" / "overlay")],
        ):
            subprocess.run(
                command, env={**os.environ, **environment}, capture_output=True, check=False
            )
        shutil.rmtree(home)


@pytest.fixture(scope="session")
def built(workshop: Workshop, exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Built:
    context = tmp_path_factory.mktemp("containers") / "colours"
    revision = "org.opencontainers.image.revision=0123abc"
    done = workshop.containerize(exported, context, "--label", revision, "--json")
    assert done.returncode == 0, done.stderr[-6000:]
    report = json.loads(done.stdout)
    return Built(report, context, done.stderr, report["image"]["tag"])


@pytest.fixture(scope="session")
def root(workshop: Workshop, built: Built) -> Root:
    return workshop.root(built.tag)


@pytest.fixture(scope="session")
def container(root: Root, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    with running(root, tmp_path_factory.mktemp("running")) as container:
        yield container
