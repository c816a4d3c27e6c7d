"""Arrays on a GPU that were made by numba.cuda."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from fastxent.device_array import DeviceArray, Place
from fastxent.interchange.device_memory import DeviceMemory, from_interface
from fastxent.interchange.library import Library, Wait, elsewhere, is_one_of
from fastxent.precision import Array

__all__ = ["LIBRARY"]


def _allocate(shape: tuple[int, ...], dtype: np.dtype[Any], place: Place) -> DeviceArray:
    cuda: Any = sys.modules["numba.cuda"]
    with cuda.gpus[place.device]:
        memory = cuda.device_array(shape, dtype, stream=0)
    address = memory.device_ctypes_pointer.value or 0
    return DeviceArray(address, shape, dtype, place, memory)


class _Numba(Library):
    allocates = True

    def owns(self, value: Any) -> bool:
        module = "numba.cuda.cudadrv.devicearray"
        return is_one_of(value, module, "DeviceNDArray") and not isinstance(value, np.ndarray)

    def why_not(self, value: Any, name: str) -> str | None:
        return elsewhere("of numba.cuda", f"pass {name}.copy_to_host()")

    def read(self, value: Any) -> Array:
        raise NotImplementedError

    def give(self, result: Array, like: Any) -> Any:
        cuda: Any = sys.modules["numba.cuda"]
        return cuda.to_device(result)

    def is_on_device(self, value: Any) -> bool:
        return True

    def read_on_device(self, value: Any) -> DeviceArray:
        # the memory's device; that of the current context may be another one
        array = from_interface(value, value.gpu_data.context.device.id)
        array.place.allocator = _allocate
        return array

    def give_on_device(self, result: DeviceArray, like: Any, wait: Wait) -> Any:
        memory = result.owner
        laid_out = result.shape, result.strides, result.dtype
        if laid_out == (memory.shape, memory.strides, memory.dtype):
            # who gets it waits for the stream that the caller bound the logits to
            return memory.bind(like.stream)
        cuda: Any = sys.modules["numba.cuda"]
        with cuda.gpus[result.place.device]:
            return cuda.as_cuda_array(DeviceMemory(result, wait), sync=False)


LIBRARY = _Numba()
