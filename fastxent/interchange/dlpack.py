"""Where an array with DLPack lies. Capsules themselves are another module: ctypes takes time."""

from __future__ import annotations

from typing import Any

__all__ = ["CPU", "CUDA", "device_of"]

# kDLCPU and kDLCUDA
CPU, CUDA = 1, 2


def device_of(value: Any) -> tuple[int, int] | None:
    """Kind of memory and number of the device, as DLPack tells them; None where it does not."""
    asked = getattr(value, "__dlpack_device__", None)
    if asked is None:
        return None
    kind, number = asked()
    return int(kind), int(number)
