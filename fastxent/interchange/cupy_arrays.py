"""Arrays of CuPy."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from fastxent.device_array import DeviceArray, Place
from fastxent.interchange.library import Library, Wait, elsewhere, is_one_of
from fastxent.precision import Array

__all__ = ["LIBRARY"]


def _allocate(shape: tuple[int, ...], dtype: np.dtype[Any], place: Place) -> DeviceArray:
    cupy: Any = sys.modules["cupy"]
    with cupy.cuda.Device(place.device):
        memory = cupy.empty(shape, dtype)
    return DeviceArray(memory.data.ptr, shape, dtype, place, memory)


class _CuPy(Library):
    allocates = True

    def owns(self, value: Any) -> bool:
        return is_one_of(value, "cupy", "ndarray")

    def why_not(self, value: Any, name: str) -> str | None:
        return elsewhere(value.device.id, f"pass {name}.get()")

    def read(self, value: Any) -> Array:
        raise NotImplementedError

    def give(self, result: Array, like: Any) -> Any:
        cupy: Any = sys.modules["cupy"]
        return cupy.asarray(result)

    def is_on_device(self, value: Any) -> bool:
        return True

    def read_on_device(self, value: Any) -> DeviceArray:
        cupy: Any = sys.modules["cupy"]
        device = value.device.id
        # each device has a current stream of its own
        with cupy.cuda.Device(device):
            stream = cupy.cuda.get_current_stream().ptr
        place = Place(device, stream, _allocate)
        return DeviceArray(value.data.ptr, value.shape, value.dtype, place, value, value.strides)

    def give_on_device(self, result: DeviceArray, like: Any, wait: Wait) -> Any:
        cupy: Any = sys.modules["cupy"]
        memory = result.owner
        laid_out = result.shape, result.strides, result.dtype
        if laid_out == (memory.shape, memory.strides, memory.dtype):
            return memory
        start = memory.data + (result.address - memory.data.ptr)
        return cupy.ndarray(result.shape, result.dtype, start, result.strides)

    def compact(self, value: Any, order: Sequence[int]) -> Any:
        cupy: Any = sys.modules["cupy"]
        with value.device:
            return cupy.ascontiguousarray(value.transpose(*order))


LIBRARY = _CuPy()
