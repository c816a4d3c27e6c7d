"""What a bug report should say about the GPU backend."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any

__all__ = ["facts"]

_PACKAGES = ("numba-cuda", "cuda-bindings", "cuda-core")


def facts(driver: Any) -> dict[str, str]:
    """Devices, versions, and where compiled kernels are kept."""
    from fastxent.backends.cuda import cubins

    found = {}
    for device in range(driver.device_count()):
        capability = ".".join(map(str, driver.capability(device)))
        found[f"device {device}"] = (
            f"{driver.name(device)}, compute capability {capability}, "
            f"{driver.multiprocessors(device)} multiprocessors"
        )
    found["CUDA of the driver"] = driver.version()
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    found["cache"] = cubins.directory()[1]
    return found
