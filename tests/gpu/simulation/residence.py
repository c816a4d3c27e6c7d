"""Arrays on their way to the simulated GPU as they lie on the host: the same strides, and gaps.

The backend's own `Residence` makes copies in C order; arrays that callers have on the device lie in
any way. With this one in its place, calls with NumPy arrays test those kernels too.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from fastxent.backends.cuda.residence import Residence
from fastxent.device_array import DeviceArray
from gpu.simulation.fault import Fault

__all__ = ["LaidOut"]

_BYTES = np.dtype(np.uint8)


class LaidOut(Residence):
    """Copies of whole pieces of memory, beginning at the same place between multiples of 16."""

    def __init__(self, runtime: Any) -> None:
        super().__init__(runtime)
        self._pieces: list[tuple[np.ndarray, np.ndarray, DeviceArray]] = []

    def take(self, value: Any) -> Any:
        """Copy of an array that is read, with the array's own strides."""
        if not isinstance(value, np.ndarray) or not value.size:
            return super().take(value)
        low, high = np.lib.array_utils.byte_bounds(value)
        phase = low % 16
        piece = np.full(phase + high - low, 0xFF, _BYTES)
        piece[phase:] = np.ctypeslib.as_array((ctypes.c_uint8 * (high - low)).from_address(low))
        there = self._runtime.upload(piece, self.place)
        array = DeviceArray(
            there.address + phase + value.ctypes.data - low,
            value.shape,
            value.dtype,
            self.place,
            there,
            value.strides,
        )
        self._inputs.append((value, array))
        self._pieces.append((value, piece, there))
        return array

    def give(self, array: Any) -> Any:
        """Memory for an array that is written, with what is between its entries."""
        if array is None or not array.size:
            return super().give(array)
        before = len(self._inputs)
        there = super().give(array) if self._is_input(array) else self.take(array)
        del self._inputs[before:]
        if all(array is not given for given, _ in self._outputs):
            self._outputs.append((array, there))
        return there

    def _is_input(self, array: np.ndarray) -> bool:
        where = (array.ctypes.data, array.shape, array.strides)
        return any(where == (x.ctypes.data, x.shape, x.strides) for x, _ in self._inputs)

    def deliver(self) -> None:
        """Copy the results into the arrays of the host; what lies between must be as it was."""
        for array, there in self._outputs:
            if not array.size:
                continue
            before, whole = next((b, w) for _, b, w in self._pieces if w is there.owner)
            after = self._runtime.download(whole)
            first = there.address - whole.address
            written = np.ndarray(array.shape, array.dtype, after, first, array.strides)
            expected = before.copy()
            np.ndarray(array.shape, array.dtype, expected, first, array.strides)[...] = written
            if not np.array_equal(after, expected):
                raise Fault("something was written between the entries of an array")
            array[...] = written
