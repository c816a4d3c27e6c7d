"""The arrays of one call: the caller's as they lie on the GPU, and new ones beside them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastxent import checks
from fastxent.backends import pick_on_device
from fastxent.backends.contract import DeviceBackend
from fastxent.device_array import DeviceArray, Place
from fastxent.interchange import UNKNOWN_DEVICE, Home, library_of
from fastxent.layout import empty_like, join_axes, order_of
from fastxent.precision import Array

__all__ = ["Arrays"]


class Arrays:
    """What the first argument of a call decides: backend, device, stream, kind of the results.

    Attributes
    ----------
    home : Home
    backend : DeviceBackend
    first : DeviceArray
    place : Place
        Where all other arrays are taken to be, after the stream has been told to wait for theirs.
    """

    def __init__(self, home: Home, name: str, backend: DeviceBackend, first: DeviceArray) -> None:
        self.home, self._name = home, name
        self.backend, self.first = backend, first
        self.place = first.place = self._with_memory(first)
        self._stream_of_out = self.place.stream

    @classmethod
    def of_call(cls, home: Home, name: str, backend: str | None) -> Arrays:
        """The first argument, `name`, is that of `home`."""
        chosen = pick_on_device(backend)
        first = checks.as_device_array(home.like, name, name)
        if home.library is not None and not home.library.keeps_for_graphs:
            chosen.check_not_captured(first.place)
        return cls(home, name, chosen, first)

    def _device_of(self, array: DeviceArray) -> int:
        device = array.place.device
        if device != UNKNOWN_DEVICE:
            return device
        return self.backend.device_of(array.address) if array.size else 0

    def _with_memory(self, array: DeviceArray) -> Place:
        given, device = array.place, self._device_of(array)
        if given.allocator is None:
            return self.backend.place(device, given.stream)
        return given

    def read(self, value: Any, name: str) -> DeviceArray:
        """Another array of the caller's, on the same device."""
        return self._ordered(checks.as_device_array(value, name, self._name), name)

    def _ordered(self, array: DeviceArray, name: str) -> DeviceArray:
        """The same, after what its own stream has to do with it."""
        there = array.place
        if there is self.place:
            return array
        if there.device == UNKNOWN_DEVICE:
            array.place = Place(self._device_of(array) if array.size else self.place.device, 0)
        checks.check_same_device(array, name, self.first, self._name)
        if there.stream != self.place.stream:
            self.backend.wait(self.place, there.stream)
        array.place = self.place
        return array

    def read_dense(self, value: Any, name: str) -> DeviceArray:
        """The same in C order without gaps: a copy by its own library where it is not."""
        array = self.read(value, name)
        if not array.is_dense:
            array = self._compact(value, name, range(array.ndim)) or array
        return checks.check_dense(array, name)

    def _compact(self, value: Any, name: str, order: Sequence[int]) -> DeviceArray | None:
        """C-ordered copy with the axes in this order, if the caller's library makes one."""
        library = library_of(value)
        copy = None if library is None else library.compact(value, order)
        return None if copy is None else self.read(copy, name)

    def gathered(
        self, array: Any, value: Any, name: str, axes: tuple[int, ...], like: Any
    ) -> DeviceArray:
        """The same with several axes one in memory, in the order that they have in `like`.

        A copy by the library of `value`, which the array shows, where they are not; what has no
        such library stays as it is.
        """
        joined = order_of(like, axes)
        if len(axes) > 1 and join_axes(array, joined) is None:
            order = [axis for axis in range(array.ndim) if axis not in axes] + joined
            copy = self._compact(value, name, order)
            array = array if copy is None else copy.transpose(np.argsort(order).tolist())
        there: DeviceArray = array
        return there

    def read_option(self, value: Any, name: str) -> DeviceArray | None:
        """An array that may be the host's as well, and then is None."""
        return self.read_dense(value, name) if checks.is_on_device(value) else None

    def read_out(self, out: Any) -> DeviceArray | None:
        """Where the caller wants a result, if there is such a place."""
        if out is None:
            return None
        checks.check_is_writable(out)
        array = checks.as_device_array(out, "out", self._name)
        self._stream_of_out = array.place.stream
        return self._ordered(array, "out")

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> DeviceArray:
        """New C-ordered array."""
        return self.place.allocate(shape, dtype)

    def scratch(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> DeviceArray:
        """New C-ordered array that is gone when the call returns: no part of a result."""
        return self.place.scratch(shape, dtype)

    def empty_like(self, given: Any, dtype: np.dtype[Any]) -> Any:
        """New array laid out as `given`."""
        allocate: Any = self.place.allocate
        return empty_like(given, dtype, allocate)

    def upload(self, array: Array, is_result: bool = False) -> DeviceArray:
        """Copy of an array of the host, for the length of the call or for the caller."""
        return self.backend.upload(np.ascontiguousarray(array), self.place, is_result)

    def give(self, result: Any) -> Any:
        """Array of the caller's library; what is None stays so."""
        if result is None or self.home.library is None:
            return result
        return self.home.give_on_device(result, self.backend.wait)

    def give_each(self, results: Any) -> Any:
        """Arrays of a named tuple likewise."""
        return type(results)(*map(self.give, results))

    def deliver(self, result: Any, out: Any) -> Any:
        """The caller's `out`, which has been written, or else the result.

        Who reads `out` on its own stream finds it written there.
        """
        if out is None:
            return self.give(result)
        if self._stream_of_out != self.place.stream:
            self.backend.wait(Place(self.place.device, self._stream_of_out), self.place.stream)
        library = library_of(out)
        if library is not None:
            library.after_write(out)
        return out
