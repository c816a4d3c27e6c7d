"""A call without memory: its launches, to be made again, and the memory that they need.

The checks, the algebra and the choice of kernels take the host longer than a small call takes the
GPU, and depend on shapes, strides, dtypes, alignment and options only. So they are gone through
once, with arrays that have no memory.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from fastxent.backends.contract import ADDRESS_STEP, DeviceBackend
from fastxent.device_array import DeviceArray, Place

__all__ = ["VECTOR", "Recorded", "keep", "recorded"]

# Bytes: memory whose beginning is as far from a multiple of it is as good for a recorded call.
VECTOR = 16

# How memory is aligned for each of the arrays that share a piece of it.
_GRANULE = 256

# Kinds of calls that are kept; batches of varying sizes make many.
_MOST_KEPT = 512


class Recorded:
    """What a call of some shapes has to do.

    Attributes
    ----------
    launch : callable
        See `DeviceBackend.record`. It takes the beginnings of the arrays that were given, and then
        of the new ones.
    results : tuple of DeviceArray
        Of the shapes, strides and dtypes of the results, and no memory.
    numbers : tuple of int
        Which of the new arrays they are in, from 0.
    nbytes : int
        Of one piece of memory for the other new arrays.
    """

    def __init__(
        self, launch: Any, allocated: Sequence[DeviceArray], results: Iterable[DeviceArray]
    ) -> None:
        self.launch, self.results = launch, tuple(results)
        number_of = {array.address: number for number, array in enumerate(allocated)}
        self.numbers = tuple(number_of[result.address] for result in self.results)
        self.nbytes = 0
        self._offsets = []
        for number, array in enumerate(allocated):
            self._offsets.append(self.nbytes)
            if number not in self.numbers:
                self.nbytes += math.ceil(array.nbytes / _GRANULE) * _GRANULE

    def beginnings(self, begin: int) -> list[int]:
        """Where the new arrays are in memory that begins there; results go elsewhere."""
        return [begin + offset for offset in self._offsets]


def recorded(
    backend: DeviceBackend,
    given: Iterable[DeviceArray],
    calls: Callable[[list[DeviceArray]], Iterable[DeviceArray]],
) -> Recorded | None:
    """Go through calls that get arrays laid out as those given, and that give the results.

    None where they take more than launches.
    """
    allocated: list[DeviceArray] = []
    addresses = itertools.count(ADDRESS_STEP, ADDRESS_STEP)

    def allocate(shape: tuple[int, ...], dtype: np.dtype[Any], place: Place) -> DeviceArray:
        allocated.append(DeviceArray(next(addresses), shape, dtype, place, None))
        return allocated[-1]

    first, *others = given
    place = Place(first.place.device, first.place.stream, allocate)
    shown = []
    for array in (first, *others):
        address = next(addresses) + array.address % VECTOR
        strides = None if array.is_dense else array.strides
        shown.append(DeviceArray(address, array.shape, array.dtype, place, None, strides))
    results: list[DeviceArray] = []
    launch = backend.record(lambda: results.extend(calls(shown)))
    return None if launch is None else Recorded(launch, allocated, results)


def keep(plans: dict[Any, Any], key: Any, plan: Any) -> None:
    """Remember what a call has to do."""
    if len(plans) >= _MOST_KEPT:
        plans.clear()
    plans[key] = plan
