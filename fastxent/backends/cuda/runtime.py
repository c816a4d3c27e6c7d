"""What verbs stand on: launches at one place, and memory of the backend's own.

The driver is whatever has the methods of `fastxent.backends.cuda.driver.Driver`: tests bring one
that runs kernels in Python.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable
from typing import Any

import numpy as np

from fastxent import checks
from fastxent.backends.cuda.arguments import pack_of
from fastxent.backends.cuda.layouts import Layout
from fastxent.backends.cuda.plan import Plan, plan_of
from fastxent.backends.cuda.specs import KernelSpec, Variant
from fastxent.backends.cuda.tables import Tables
from fastxent.device_array import DeviceArray, Place, Shape
from fastxent.precision import Array

__all__ = ["Runtime"]


class _Memory:
    """Memory of the backend's own; it goes back when the last array in it is gone.

    `stream` is None for what may outlive the stream; see `fastxent.backends.cuda.memory`.
    """

    __slots__ = ("_address", "_device", "_driver", "_process", "stream")

    def __init__(self, driver: Any, nbytes: int, device: int, stream: int | None) -> None:
        self._driver, self._device, self.stream = driver, device, stream
        self._process = os.getpid()
        self._address: int = driver.allocate(nbytes, device, stream)

    @property
    def address(self) -> int:
        return self._address

    def __del__(self) -> None:
        # a process that was forked from the one with the memory has no CUDA
        if hasattr(self, "_address") and self._process == os.getpid():
            self._driver.free(self._address, self._device, self.stream)


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
        self.tables = Tables(driver, self._allocate)

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
        return Place(device, stream, self._allocate, self._allocate_scratch)

    def _allocate(self, shape: Shape, dtype: np.dtype[Any], place: Place) -> DeviceArray:
        return self._new(shape, dtype, place, None)

    def _allocate_scratch(self, shape: Shape, dtype: np.dtype[Any], place: Place) -> DeviceArray:
        return self._new(shape, dtype, place, place.stream)

    def _new(
        self, shape: Shape, dtype: np.dtype[Any], place: Place, stream: int | None
    ) -> DeviceArray:
        self.check_not_captured(place)
        array = DeviceArray(0, shape, dtype, place, None)
        # 0 is the address of what is absent, so an empty array has memory too
        array.owner = _Memory(self.driver, max(array.nbytes, 1), place.device, stream)
        array.address = array.owner.address
        return array

    def check_not_captured(self, place: Place) -> None:
        """Refuse memory that a graph would go on using after it has been given back."""
        if self.driver.is_capturing(place.stream, place.device):
            checks.raise_backend(
                "the stream is captured, and only PyTorch keeps memory for a graph: pass tensors "
                "of PyTorch, or call outside the capture"
            )

    def check_may_wait(self, place: Place) -> None:
        """Refuse to look at labels where the work before is not done but recorded."""
        if self.driver.is_capturing(place.stream, place.device):
            checks.raise_backend(
                "labels cannot be checked while the stream is captured: that waits for the GPU"
            )

    def upload(self, array: Array, place: Place, is_result: bool = False) -> DeviceArray:
        """Copy of a contiguous array of the host in new memory of the place."""
        allocate = place.allocate if is_result else place.scratch
        there = allocate(array.shape, array.dtype)
        self.driver.upload(there.address, array, place.stream, place.device)
        return there

    def download(self, array: DeviceArray) -> Array:
        """Copy of a contiguous array on the host; this waits for the GPU."""
        here = np.empty(array.shape, array.dtype)
        place = array.place
        self.driver.download(here, array.address, place.stream, place.device)
        return here

    def table(self, numbers: tuple[int, ...], place: Place) -> int:
        """Address of a table of these int64 numbers, for what is launched on the place now."""
        table = self.tables.find(numbers, place)
        self.tables.prepare(table, place)
        return table.address

    def launch(self, spec: KernelSpec, grid: int, place: Place, given: dict[str, Any]) -> None:
        """Start a kernel; the arguments by name, absent ones are 0. Of an empty grid nothing."""
        if grid:
            arguments = pack_of(spec.module)(given)
            self.driver.launch(spec, grid, arguments, place.device, place.stream)
