"""Calls of the backend: decided once, launched for all tensors that differ in their numbers only.

The checks, the algebra and the choice of kernels take Python longer than a small call takes the
GPU. They depend on dtypes, shapes, strides, alignments and options, so the first call of its kind
goes through them with arrays that have no memory, and its launches are made again for every other.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple, NoReturn

import numpy as np
import torch
from torch import Tensor

from fastxent import checks
from fastxent.backends.contract import ADDRESS_STEP, DeviceBackend
from fastxent.device_array import DeviceArray, Place
from fastxent.interchange import home_of
from fastxent.on_device.arrays import Arrays
from fastxent.on_device.keys import is_known_again
from fastxent.torch.on_cuda.arrays import address_of, new_memory, pick, plain, stream_of

__all__ = ["Compute", "call", "key_of"]

# Of the arrays of a call and of what it is given: its results, by name.
Compute = Callable[[Arrays, Mapping[str, Any]], dict[str, DeviceArray]]

# Calls that are kept: shapes that change from step to step must not pile up.
_MOST_CALLS = 512

# What stands for a plan that was not looked for; None is for a call that has none.
_UNKNOWN: Any = object()

# How memory must be aligned to be as good as other memory, and how PyTorch aligns new memory.
_VECTOR, _GRANULE = 16, 64

_TO_TORCH = {
    np.dtype(name): getattr(torch, name) for name in ("float16", "float32", "float64", "int64")
} | {np.dtype(np.uint8): torch.uint8, np.dtype(np.bool_): torch.bool}


class _NeedsHost(Exception):
    """A call copies numbers from the host, which have to be copied again each time."""


class _Result(NamedTuple):
    """Result of a call: all of a new array, in its shape or another one.

    Attributes
    ----------
    name : str
    number : int
        Among the new arrays of the call.
    shape : tuple of int
    steps : tuple of int or None
        Strides in entries, where they are not in C order.
    dtype : torch.dtype
    """

    name: str
    number: int
    shape: tuple[int, ...]
    steps: tuple[int, ...] | None
    dtype: torch.dtype

    @classmethod
    def of(cls, name: str, number: int, array: DeviceArray) -> _Result:
        """Describe an array that a call gives."""
        steps = None
        if not array.is_dense:
            steps = tuple(step // array.itemsize for step in array.strides)
        dtype = _TO_TORCH.get(array.dtype, torch.bfloat16)
        return cls(name, number, array.shape, steps, dtype)

    def new(self, device: torch.device) -> Tensor:
        """Memory for it."""
        if self.steps is None:
            return new_memory(self.shape, self.dtype, device)
        memory = new_memory((math.prod(self.shape),), self.dtype, device)
        return memory.as_strided(self.shape, self.steps)

    def within(self, memory: Tensor) -> Tensor:
        """The memory as a tensor that is no view, which an autograd function may give."""
        shown = memory.view(self.dtype)
        if self.steps is None:
            shown = shown.view(self.shape)
        else:
            shown = shown.as_strided(self.shape, self.steps)
        return memory.new_empty(0, dtype=self.dtype).set_(shown)


class _Plan:
    """The launches of a call, and the memory that they need.

    Parameters
    ----------
    launch : callable
        See `fastxent.backends.contract.DeviceBackend.record`.
    allocated : list of DeviceArray
        New arrays of the call; those that are no results share one piece of memory.
    found : dict
        The results.
    """

    def __init__(
        self, launch: Any, allocated: list[DeviceArray], found: Mapping[str, DeviceArray]
    ) -> None:
        self._launch = launch
        number_of = {array.address: number for number, array in enumerate(allocated)}
        self._results = [
            _Result.of(name, number_of[array.address], array) for name, array in found.items()
        ]
        self._offsets: list[int] = []
        self._nbytes = 0
        results = {result.number for result in self._results}
        for number, array in enumerate(allocated):
            self._offsets.append(self._nbytes)
            if number not in results:
                self._nbytes += math.ceil(array.nbytes / _GRANULE) * _GRANULE

    def start(self, beginnings: list[int], device: torch.device) -> dict[str, Tensor]:
        """Launch for the tensors that begin there."""
        found = {}
        begin = 0
        if self._nbytes:
            shared = new_memory((self._nbytes,), torch.uint8, device)
            begin = address_of(shared)
        given = len(beginnings)
        beginnings += [begin + offset for offset in self._offsets]
        for result in self._results:
            found[result.name] = memory = result.new(device)
            beginnings[given + result.number] = address_of(memory)
        self._launch(Place(device.index, stream_of(device)), tuple(beginnings))
        return found


def key_of(verb: str, *options: Any) -> Hashable:
    """All that a call depends on beside its tensors; None where that cannot be told."""
    if not all(map(is_known_again, options)):
        return None
    return verb, options, tuple(map(type, options))


def call(
    backend: str | None, key: Hashable, tensors: Mapping[str, Tensor | None], compute: Compute
) -> dict[str, Tensor]:
    """Results by name of a call on these tensors, the first of which says where.

    `key` is all that the call depends on beside the tensors; None where that is not known.
    `compute` gets the arrays of the call, and those of the tensors that there are.
    """
    given = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    device = next(iter(given.values())).device
    chosen = pick(backend)
    if key is None:
        return _computed(chosen, given, compute)
    beginnings = []
    layouts = []
    for tensor in given.values():
        address = address_of(tensor)
        distance = address % _VECTOR
        beginnings.append(address - distance)
        layouts.append((tensor.dtype, tensor.shape, tensor.stride(), distance))
    key = key, device, *given, *layouts
    plans = chosen.plans
    plan = plans.get(key, _UNKNOWN)
    if plan is _UNKNOWN:
        if len(plans) >= _MOST_CALLS:
            plans.clear()
        plans[key] = plan = _planned(chosen, given, compute)
    return _computed(chosen, given, compute) if plan is None else plan.start(beginnings, device)


def _read(tensors: Mapping[str, Tensor]) -> dict[str, DeviceArray]:
    """The tensors as arrays, checked."""
    first = next(iter(tensors))
    return {
        name: checks.as_device_array(plain(tensor), name, first) for name, tensor in tensors.items()
    }


def _planned(
    backend: DeviceBackend, tensors: Mapping[str, Tensor], compute: Compute
) -> _Plan | None:
    """Go through a call without memory; None where numbers of the host are copied."""
    allocated: list[DeviceArray] = []
    numbers = itertools.count(len(tensors) + 1)

    def allocate(shape: tuple[int, ...], dtype: np.dtype[Any], place: Place) -> DeviceArray:
        allocated.append(DeviceArray(next(numbers) * ADDRESS_STEP, shape, dtype, place, None))
        return allocated[-1]

    given = _read(tensors)
    there = next(iter(given.values())).place
    place = Place(there.device, there.stream, allocate)
    for number, array in enumerate(given.values(), start=1):
        array.address = number * ADDRESS_STEP + array.address % _VECTOR
        array.place, array.owner = place, None
    found: dict[str, DeviceArray] = {}

    def run() -> None:
        found.update(compute(_arrays(backend, given, _OnGPU), given))

    try:
        launch = backend.record(run)
    except _NeedsHost:
        return None
    return _Plan(launch, allocated, found)


class _OnGPU(Arrays):
    """Arrays of a call that needs nothing of the host."""

    def upload(self, array: Any) -> NoReturn:
        raise _NeedsHost


def _arrays(
    backend: DeviceBackend, given: Mapping[str, DeviceArray], kind: type[Arrays] = Arrays
) -> Arrays:
    name, first = next(iter(given.items()))
    return kind(home_of(first), name, backend, first)


def _computed(
    backend: DeviceBackend, tensors: Mapping[str, Tensor], compute: Compute
) -> dict[str, Tensor]:
    """The call as it is."""
    given = _read(tensors)
    found = compute(_arrays(backend, given), given)
    return {name: _Result.of(name, 0, array).within(array.owner) for name, array in found.items()}
