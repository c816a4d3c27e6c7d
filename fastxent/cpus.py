"""How many CPUs the process may use: the machine's, its affinity, and the quota of its cgroup."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable
from pathlib import Path

__all__ = ["affinity_cpus", "available_cpus", "cgroup_cpus", "machine_cpus", "quota_cpus"]


def _rounded_up(quota: int, period: int) -> int | None:
    return max(1, math.ceil(quota / period)) if quota > 0 else None


def _of_version_2(group: Path) -> int | None:
    """CPUs of a cgroup v2 `cpu.max` line, "quota period" or "max period"."""
    quota, _, period = (group / "cpu.max").read_text().strip().partition(" ")
    return None if quota == "max" or not period else _rounded_up(int(quota), int(period))


def _of_version_1(group: Path) -> int | None:
    """CPUs of a cgroup v1; a quota of -1 is none."""
    quota, period = (
        int((group / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period")
    )
    return _rounded_up(quota, period)


def _least(root: Path, inner: str, quota_of: Callable[[Path], int | None]) -> int | None:
    """CPUs that the quotas of a group and of all above it leave.

    A container may see its own group as the root, under a path that is the host's.
    """
    found = []
    for group in [root / inner, *(root / inner).parents][: len(Path(inner).parts) + 1]:
        try:
            quota = quota_of(group)
        except (OSError, ValueError):
            continue
        if quota is not None:
            found.append(quota)
    return min(found, default=None)


def cgroup_cpus(
    root: Path = Path("/sys/fs/cgroup"), of_process: Path = Path("/proc/self/cgroup")
) -> int | None:
    """CPUs that the quotas of the process's cgroup leave, of either version; None for no quota."""
    try:
        lines = [line.split(":", 2) for line in of_process.read_text().splitlines()]
    except (OSError, ValueError):  # a path need not be text
        lines = []
    groups = {name: line[2].lstrip("/") for line in lines for name in line[1].split(",")}
    found = _least(root, groups.get("", ""), _of_version_2)
    if found is not None:
        return found
    return _least(root / "cpu", groups.get("cpu", ""), _of_version_1)


@functools.cache
def quota_cpus() -> int | None:
    """CPUs that the cgroup's quota leaves, as it was when fastxent first asked."""
    return cgroup_cpus()


@functools.cache
def machine_cpus() -> int:
    """CPUs of the machine."""
    return os.cpu_count() or 1


def affinity_cpus() -> int:
    """CPUs that the calling thread may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def available_cpus() -> int:
    """CPUs that affinity and the cgroup quota leave to this process."""
    quota = quota_cpus()
    return affinity_cpus() if quota is None else min(affinity_cpus(), quota)
