"""Objects that show memory of a backend for GPUs as other libraries do, and a look at results."""

from __future__ import annotations

import math

import numpy as np

from fastxent.checks.on_device import outline
from fastxent.device_array import DeviceArray, Place
from fastxent.interchange import capsules, dlpack
from fastxent.interchange.device_memory import DeviceMemory
from fastxent.precision import kind_of

STREAM = 7


class ByInterface:
    """What shows its memory by ``__cuda_array_interface__``."""

    def __init__(self, array, stream=STREAM):
        self.array = array
        self.facts = {
            "shape": array.shape,
            "strides": None if array.is_dense else array.strides,
            "typestr": array.dtype.str,
            "data": (array.address, not array.writeable),
            "stream": stream,
            "version": 3,
        }

    @property
    def __cuda_array_interface__(self):
        return self.facts


class ByDLPack:
    """What shows its memory by DLPack, and orders it for the consumer's stream."""

    def __init__(self, array, device=0):
        self.array, self.device, self.streams = array, device, []

    def __dlpack_device__(self):
        return dlpack.CUDA, self.device

    def __dlpack__(self, *, stream=None):
        self.streams.append(stream)
        return capsules.capsule_of(self.array)


class Putter:
    """Copies arrays to a backend's device, with the strides that they have."""

    def __init__(self, backend, stream=STREAM):
        self.backend, self.stream = backend, stream

    def array(self, array):
        """The copy as a `DeviceArray`."""
        place = self.backend.place(0, self.stream)
        if not array.size:
            there = place.allocate((1,), array.dtype)
            return DeviceArray(there.address, array.shape, array.dtype, place, there)
        low, high = np.lib.array_utils.byte_bounds(array)
        bytes_ = np.empty(high - low, np.uint8)
        steps = array.strides
        first = array.ctypes.data - low
        copy = np.ndarray(array.shape, array.dtype, bytes_, first, steps)
        copy[...] = array
        there = self.backend.upload(bytes_, place)
        writeable = array.flags.writeable
        address = there.address + first
        return DeviceArray(address, array.shape, array.dtype, place, there, steps, writeable)

    def __call__(self, array):
        """The copy as an object that shows it in the way that knows its dtype."""
        there = self.array(np.asarray(array))
        if kind_of(there.dtype) == "bfloat16":
            return ByDLPack(there)
        return ByInterface(there, self.stream)


def numbers(result):
    """Copy of what a call gave, or of what was put."""
    if isinstance(result, DeviceMemory | ByDLPack):
        place = Place(0, 0)
        array = capsules.from_capsule(result.__dlpack__(stream=-1), place, result)
    else:
        array = result.array
    if not math.prod(array.shape):
        return np.empty(array.shape, array.dtype)
    return outline(array).copy(order="K")
