"""Where it was measured: the CPUs of this process, versions, and what is missing."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from fastxent import config, threads

__all__ = ["available_bytes", "facts", "is_busy", "pin", "summary"]

# A load average of the last minute over this share of the CPUs means that others were computing.
BUSY = 0.5
# Asked when this is imported: later, what is measured here would count as others.
LOAD_AT_START = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else 0.0

PACKAGES = ("numpy", "numba", "scipy", "scikit-learn", "torch", "jax", "jaxlib", "optax")


def pin(count: int) -> None:
    """Leave this process so many CPUs; before frameworks are imported, for some look only then.

    Asking for all it has changes nothing.
    """
    available = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if count < len(available):
        os.sched_setaffinity(0, available[:count])


def _caches() -> dict[str, str]:
    """Sizes of the caches of the first CPU, as Linux tells them."""
    found = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            level, kind, size = (
                (index / name).read_text().strip() for name in ("level", "type", "size")
            )
        except OSError:
            continue
        if kind != "Instruction":
            found[f"L{level}"] = size
    return found


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def available_bytes() -> int | None:
    """Memory that can be had without swapping, as Linux estimates it; None elsewhere."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    kilobytes = (line.split()[1] for line in lines if line.startswith("MemAvailable:"))
    return next((1024 * int(number) for number in kilobytes), None)


def facts() -> dict[str, Any]:
    """Gather what the numbers depend on; no names of machines, people or directories.

    How busy the machine was when this module was imported is one of the facts.
    """
    found = config.collect()
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "fastxent": found["fastxent"]["version"],
        "cpu": found["cpu"],
        "caches": _caches(),
        "memory_bytes": _memory_bytes(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": found["python"]["version"],
        "threads": threads.get_num_threads(),
        "load_before": LOAD_AT_START,
        "versions": versions,
    }


def is_busy(machine: dict[str, Any]) -> bool:
    """Whether others were computing when a run began, by its facts."""
    if not machine:
        return False
    return bool(machine["load_before"] > BUSY * machine["cpu"]["available_cpus"])


def summary(machine: dict[str, Any]) -> str:
    """Describe the machine in one line, and say whether others were using it."""
    cpu = machine["cpu"]
    caches = ", ".join(f"{size} {level}" for level, size in machine["caches"].items())
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    busy = ""
    if is_busy(machine):
        busy = f"; BUSY: a load average of {machine['load_before']} when this began"
    return (
        f"{cpu['model']}, {cpu['available_cpus']} CPUs (caches: {caches}), "
        f"{machine['system']}, Python {machine['python']}; {versions}{busy}"
    )
