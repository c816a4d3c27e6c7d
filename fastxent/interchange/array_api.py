"""Arrays of any library that follows the Python array API standard."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastxent.device_array import DeviceArray
from fastxent.interchange import dlpack
from fastxent.interchange.device_memory import DeviceMemory, from_dlpack
from fastxent.interchange.library import Library, Wait
from fastxent.precision import Array

__all__ = ["LIBRARY"]


class _ArrayAPI(Library):
    def owns(self, value: Any) -> bool:
        asked = getattr(value, "__array_namespace__", None)
        return asked is not None and hasattr(asked(), "from_dlpack")

    def read(self, value: Any) -> Array:
        return np.from_dlpack(value)

    def give(self, result: Array, like: Any) -> Any:
        return like.__array_namespace__().from_dlpack(result)

    def is_on_device(self, value: Any) -> bool:
        told = dlpack.device_of(value)
        return told is not None and told[0] == dlpack.CUDA

    def read_on_device(self, value: Any) -> DeviceArray:
        return from_dlpack(value)

    def give_on_device(self, result: DeviceArray, like: Any, wait: Wait) -> Any:
        return like.__array_namespace__().from_dlpack(DeviceMemory(result, wait))


LIBRARY = _ArrayAPI()
