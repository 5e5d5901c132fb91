"""How many processors this process may keep busy."""

from __future__ import annotations

import contextlib
import math
import os
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")

SHARES = "TLSERVE_QUOTA_SHARES"
"""The variable that says how many processes of a service share the quota of its control group."""


def available_processors(cgroups: Path = _CGROUPS, own: Path = _OWN) -> int:
    """Count the processors that this process may use at once.

    Those that it may run on, or fewer where a control group has a quota, as ``docker run --cpus``
    and Kubernetes' limits set one: threads beyond it would all wait for the next period, a tenth
    of a second. A part of a processor counts as one. Of a quota, each of several workers of a
    service has its share.

    Args:
        cgroups: Where control groups are mounted.
        own: Says in which this process is; see cgroups(7).
    """
    if hasattr(os, "sched_getaffinity"):
        usable = len(os.sched_getaffinity(0))
    else:
        usable = os.cpu_count() or 1
    quota = min(_quotas(cgroups, own), default=math.inf) / int(os.environ.get(SHARES, "1"))
    return usable if quota >= usable else max(1, math.ceil(quota))


def _quotas(cgroups: Path, own: Path) -> list[float]:
    """List the limits, in processors, of the group of this process and of those around it."""
    found = []
    for mount, name in _groups(cgroups, own):
        group = mount / name
        # A container is told its group's path on the host, and sees the group itself as the root.
        inner = group if group.is_dir() else mount
        for path in (inner, *inner.parents):
            if (quota := _quota(path)) is not None:
                found.append(quota)
            if path == mount:
                break
    return found


def _groups(cgroups: Path, own: Path) -> list[tuple[Path, str]]:
    """Find the groups that can limit processors: where the hierarchy is mounted, and the path."""
    groups = []
    try:
        lines = own.read_text("utf-8").splitlines()
    except OSError:
        # No Linux, or no /proc: nothing that could be known.
        return []
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0":
            groups.append((cgroups, path.strip("/")))
        elif "cpu" in controllers.split(","):
            groups.append((cgroups / controllers, path.strip("/")))
    return groups


def _quota(group: Path) -> float | None:
    """Read the limit of one group; ``None`` where it has none."""
    with contextlib.suppress(OSError):
        quota, period = (group / "cpu.max").read_text("ascii").split()
        return None if quota == "max" else int(quota) / int(period)
    with contextlib.suppress(OSError):
        quota = (group / "cpu.cfs_quota_us").read_text("ascii").strip()
        period = (group / "cpu.cfs_period_us").read_text("ascii").strip()
        return None if quota == "-1" else int(quota) / int(period)
    return None
