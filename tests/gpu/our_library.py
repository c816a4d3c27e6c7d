"""A library of arrays on a GPU, which allocates memory for results and makes copies."""

import numpy as np

from fastxent.backends import load
from fastxent.checks.on_device import outline
from fastxent.device_array import DeviceArray, Place
from fastxent.interchange.library import Library
from gpu.arrays import STREAM


class Ours:
    """An array of a library that allocates memory for results."""

    def __init__(self, array):
        self.array, self.version = array, 0


class OurLibrary(Library):
    allocates = True

    def owns(self, value):
        return isinstance(value, Ours)

    def read(self, value):
        raise NotImplementedError

    def give(self, result, like):
        raise NotImplementedError

    def is_on_device(self, value):
        return True

    def read_on_device(self, value):
        array = value.array
        place = Place(0, STREAM, load("cuda").place(0, STREAM).allocator)
        return DeviceArray(
            array.address, array.shape, array.dtype, place, value, array.strides, array.writeable
        )

    def give_on_device(self, result, like, wait):
        return Ours(result)

    def after_write(self, value):
        value.version += 1

    def compact(self, value, order):
        array = value.array
        copy = np.ascontiguousarray(outline(array).transpose(order))
        there = array.place.allocate(copy.shape, copy.dtype)
        outline(there)[...] = copy
        return Ours(there)
