"""The locks that come with tlserve are of what pyproject.toml asks for."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tlserve.container.context import lock
from tlserve.container.flavours import FLAVOURS

_PYTHONS = ("3.11", "3.12", "3.13")
_LINE = re.compile(
    r"^([A-Za-z0-9._-]+)==([^ ;\\]+)(?: ; ([^\\]+?))?((?: \\\n    --hash=\S+)+)$", re.M
)


def _environment(python: str) -> dict[str, str]:
    return {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_machine": "x86_64",
        "platform_python_implementation": "CPython",
        "implementation_name": "cpython",
        "os_name": "posix",
        "extra": "",
    }


def _pinned(text: str, python: str) -> dict[str, Version]:
    found: dict[str, Version] = {}
    for name, version, marker, hashes in _LINE.findall(text):
        assert "--hash=sha256:" in hashes
        requirement = Requirement(f"{name} ; {marker}" if marker else name)
        if requirement.marker is None or requirement.marker.evaluate(_environment(python)):
            assert canonicalize_name(name) not in found
            found[canonicalize_name(name)] = Version(version)
    return found


def _wanted(project: dict[str, Any], extra: str) -> list[Requirement]:
    texts = [*project["dependencies"], *project["optional-dependencies"][extra]]
    return [Requirement(text) for text in texts]


@pytest.mark.parametrize("python", _PYTHONS)
@pytest.mark.parametrize("name", FLAVOURS)
def test_each_requirement_is_pinned_to_what_satisfies_it(
    repository: Path, name: str, python: str
) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text("utf-8"))["project"]
    extra = FLAVOURS[name].extra
    pinned = _pinned(lock(extra), python)
    compared = 0
    for requirement in _wanted(project, extra):
        if requirement.marker and not requirement.marker.evaluate(_environment(python)):
            continue
        version = pinned[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), requirement
        compared += 1
    assert compared > 10


@pytest.mark.parametrize("name", ["cpu", "gpu", "torch", "sbom"])
def test_a_lock_has_pins_with_hashes_and_nothing_else(name: str) -> None:
    text = lock(name)
    assert _LINE.sub("", text).split() == []
    assert "://" not in text


def test_what_a_flavour_is_without() -> None:
    heavy = {"torch", "torchvision", "onnxruntime-gpu", "nvidia-cudnn-cu12", "nvidia-cudnn-cu13"}
    assert not heavy & _pinned(lock("cpu"), "3.11").keys()
    gpu, torch = _pinned(lock("gpu"), "3.11"), _pinned(lock("torch"), "3.11")
    assert "onnxruntime-gpu" in gpu
    assert not {"torch", "onnxruntime"} & gpu.keys()
    assert "torch" in torch
    assert not {"onnxruntime", "onnxruntime-gpu"} & torch.keys()
