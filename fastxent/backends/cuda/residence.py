"""Arrays of the host on their way to the device and back, for the length of one call."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, TypeVar

import numpy as np

from fastxent.backends.cuda.runtime import Runtime
from fastxent.device_array import DeviceArray
from fastxent.layout import same_memory
from fastxent.precision import Array

__all__ = ["Residence"]

_Record = TypeVar("_Record")


class Residence:
    """Copies on a device of what one call reads and writes: the first capable one, default stream.

    Copies are C-ordered, whatever the strides on the host.

    Attributes
    ----------
    place : Place
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.place = runtime.place(runtime.driver.first_device(), 0)
        self._inputs: list[tuple[Array, DeviceArray]] = []
        self._outputs: list[tuple[Array, DeviceArray]] = []

    def take(self, value: Any) -> Any:
        """Copy of an array that is read; what is no array stays as it is."""
        if not isinstance(value, np.ndarray):
            return value
        there = self._runtime.upload(np.ascontiguousarray(value), self.place)
        self._inputs.append((value, there))
        return there

    def give(self, array: Array | None) -> DeviceArray | None:
        """Memory for an array that is written: that of an input, if it goes over one."""
        if array is None:
            return None
        there = next((copy for given, copy in self._inputs if same_memory(given, array)), None)
        if there is None:
            there = self.place.scratch(array.shape, array.dtype)
        self._outputs.append((array, there))
        return there

    def take_fields(self, record: _Record, *names: str) -> _Record:
        """The same record with copies of these fields' arrays."""
        copies = {name: self.take(getattr(record, name)) for name in names}
        return replace(record, **copies)  # type: ignore[type-var]

    def give_all(self, outputs: _Record) -> _Record:
        """Memory for each array of a record of outputs, but for `total`."""
        names = [field.name for field in fields(outputs)]  # type: ignore[arg-type]
        made = {name: self.give(getattr(outputs, name)) for name in names if name != "total"}
        return type(outputs)(**made)

    def total(self, partial: DeviceArray) -> float:
        """Sum of partial sums, added up on the host; this waits for the GPU."""
        return float(np.sum(self._runtime.download(partial)))

    def deliver(self) -> None:
        """Copy the results into the arrays of the host."""
        for array, there in self._outputs:
            if array.size:
                array[...] = self._runtime.download(there)
