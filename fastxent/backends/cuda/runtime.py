"""What verbs stand on: launches at one place, and memory of the backend's own.

The driver is whatever has the methods of `fastxent.backends.cuda.driver.Driver`: tests bring one
that runs kernels in Python.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import numpy as np

from fastxent import checks
from fastxent.backends.cuda.arguments import pack_of
from fastxent.backends.cuda.layouts import Layout
from fastxent.backends.cuda.plan import Plan, plan_of
from fastxent.backends.cuda.specs import KernelSpec, Variant
from fastxent.device_array import DeviceArray, Place, Shape
from fastxent.precision import Array

__all__ = ["Runtime"]


class _Memory:
    """Memory of the backend's own; it goes back when the last array in it is gone."""

    __slots__ = ("_address", "_device", "_driver")

    def __init__(self, driver: Any, nbytes: int, device: int) -> None:
        self._driver, self._device = driver, device
        self._address: int = driver.allocate(nbytes, device)

    @property
    def address(self) -> int:
        return self._address

    def __del__(self) -> None:
        if hasattr(self, "_address"):
            self._driver.free(self._address, self._device)


class Runtime:
    """A driver, and what is kept for it between calls.

    Attributes
    ----------
    driver : Driver
    plans : dict
        What callers keep of their launches.
    """

    def __init__(self, driver: Any) -> None:
        self.driver = driver
        self.plans: dict[Any, Any] = {}
        self.capability = functools.cache(self._capability)
        self._plan_of = functools.lru_cache(maxsize=4096)(plan_of)
        self._tables: dict[tuple[int, tuple[int, ...]], DeviceArray] = {}

    def _capability(self, device: int) -> tuple[int, int]:
        major, minor = self.driver.capability(device)
        return major, minor

    def plan(
        self, variant: Variant, rows: int, classes: int, arrays: Iterable[Any], device: int
    ) -> Plan:
        """`plan_of` for these arrays; calls with arrays of the same layout share it."""
        layouts = tuple(map(Layout.of, arrays))
        return self._plan_of(variant, rows, classes, layouts, self.capability(device))

    def place(self, device: int, stream: int) -> Place:
        """Device and stream, with memory of the backend's own."""
        return Place(device, stream, self._allocate)

    def _allocate(self, shape: Shape, dtype: np.dtype[Any], place: Place) -> DeviceArray:
        array = DeviceArray(0, shape, dtype, place, None)
        # 0 is the address of what is absent, so an empty array has memory too
        array.owner = _Memory(self.driver, max(array.nbytes, 1), place.device)
        array.address = array.owner.address
        return array

    def upload(self, array: Array, place: Place) -> DeviceArray:
        """Copy of a contiguous array of the host in new memory of the place."""
        there = place.allocate(array.shape, array.dtype)
        self.driver.upload(there.address, array, place.stream, place.device)
        return there

    def download(self, array: DeviceArray) -> Array:
        """Copy of a contiguous array on the host; this waits for the GPU."""
        here = np.empty(array.shape, array.dtype)
        place = array.place
        self.driver.download(here, array.address, place.stream, place.device)
        return here

    def table(self, numbers: tuple[int, ...], place: Place) -> int:
        """Address of a table of these int64 numbers on the device, where it stays.

        Layouts recur from call to call, and a captured graph reads its tables when it is replayed.
        """
        found = self._tables.get((place.device, numbers))
        if found is None:
            if self.driver.is_capturing(place.stream):
                checks.raise_backend(
                    "backend 'cuda' has not seen arrays of this layout before and cannot prepare "
                    "for them while the stream is captured: run the call once before the capture"
                )
            own = self.place(place.device, place.stream)
            found = self.upload(np.array(numbers, np.int64), own)
            # other streams read it as well
            self.driver.synchronize(place.stream, place.device)
            self._tables[place.device, numbers] = found
        return found.address

    def launch(self, spec: KernelSpec, grid: int, place: Place, given: dict[str, Any]) -> None:
        """Start a kernel; the arguments by name, absent ones are 0. Of an empty grid nothing."""
        if grid:
            arguments = pack_of(spec.module)(given)
            self.driver.launch(spec, grid, arguments, place.device, place.stream)
