"""The number of processors that a process may keep busy."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from service.shares import Share
from tlserve.runtime.processors import available_processors

USABLE = len(os.sched_getaffinity(0))
FIRST_VERSION = Path("/sys/fs/cgroup/cpu")


def write(group: Path, quota: str) -> None:
    """Write a group of version 2."""
    group.mkdir(parents=True, exist_ok=True)
    (group / "cpu.max").write_text(f"{quota}\n")


def write_first(group: Path, quota: int) -> None:
    """Write one of version 1."""
    group.mkdir(parents=True, exist_ok=True)
    (group / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    (group / "cpu.cfs_period_us").write_text("100000\n")


def count(cgroups: Path, own: str) -> int:
    listed = cgroups.parent / "own"
    listed.write_text(own)
    return available_processors(cgroups, listed)


@pytest.mark.parametrize(
    ("quota", "expected"),
    [
        ("max 100000", USABLE),
        ("100000 100000", 1),
        ("50000 100000", 1),
        ("6400000 100000", USABLE),
    ],
)
def test_a_quota_limits_them(tmp_path: Path, quota: str, expected: int) -> None:
    write(tmp_path / "cgroup" / "a" / "b", quota)
    assert count(tmp_path / "cgroup", "0::/a/b\n") == expected


@pytest.mark.skipif(USABLE < 2, reason="needs two processors")
def test_a_part_of_a_processor_counts_as_one(tmp_path: Path) -> None:
    write(tmp_path / "cgroup", "100001 100000")
    assert count(tmp_path / "cgroup", "0::/\n") == 2


@pytest.mark.skipif(USABLE < 2, reason="needs two processors")
def test_each_of_several_workers_has_its_share_of_a_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "cgroup", "200000 100000")
    assert count(tmp_path / "cgroup", "0::/\n") == 2
    for name, value in Share(workers=2).environment().items():
        monkeypatch.setenv(name, value)
    assert count(tmp_path / "cgroup", "0::/\n") == 1
    # What no group limits, the choice of processors divides.
    write(tmp_path / "cgroup", "max 100000")
    assert count(tmp_path / "cgroup", "0::/\n") == USABLE


def test_the_quota_of_a_group_around_it_counts(tmp_path: Path) -> None:
    write(tmp_path / "cgroup" / "pod", "100000 100000")
    write(tmp_path / "cgroup" / "pod" / "container", "max 100000")
    assert count(tmp_path / "cgroup", "0::/pod/container\n") == 1


def test_a_container_sees_its_own_group_as_the_root(tmp_path: Path) -> None:
    write(tmp_path / "cgroup", "100000 100000")
    assert count(tmp_path / "cgroup", "0::/docker/0123abc\n") == 1


def test_the_first_version_of_control_groups(tmp_path: Path) -> None:
    mount = tmp_path / "cgroup" / "cpu,cpuacct"
    write_first(mount / "docker", 100000)
    own = "7:memory:/docker\n3:cpu,cpuacct:/docker\n2:cpuset:/docker\n"
    assert count(tmp_path / "cgroup", own) == 1
    write_first(mount / "docker", -1)
    assert count(tmp_path / "cgroup", own) == USABLE


def test_a_system_without_control_groups(tmp_path: Path) -> None:
    assert available_processors(tmp_path, tmp_path / "absent") == USABLE


@pytest.mark.skipif(USABLE < 2, reason="needs two processors")
def test_a_quota_of_the_kernel_is_found() -> None:
    group = FIRST_VERSION / f"tlserve-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"needs a control group of version 1 that may be made: {error}")
    try:
        (group / "cpu.cfs_quota_us").write_text("100000")
        program = (
            "import os, pathlib, sys; pathlib.Path(sys.argv[1]).write_text(str(os.getpid()));"
            "from tlserve.runtime.processors import available_processors;"
            "print(available_processors())"
        )
        command = [sys.executable, "-c", program, str(group / "cgroup.procs")]
        output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        assert output == "1\n"
    finally:
        group.rmdir()
