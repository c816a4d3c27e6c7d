"""Calls of the backend: computed the first time, repeated for tensors that are the same but for
their numbers and addresses.

Python needs hundreds of microseconds to check a call and to decide what to launch, and what it
decides depends on dtypes, shapes, strides, alignments and options alone.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastxent.backends.contract import Launches
from fastxent.device_array import DeviceArray, Place
from fastxent.interchange import home_of
from fastxent.on_device.arrays import Arrays
from fastxent.torch.on_cuda.arrays import address_of, new_memory, pick, plain, stream_of

__all__ = ["Compute", "call"]

# Of the results of a call, by name.
Compute = Callable[[Arrays], dict[str, DeviceArray]]

# Calls that are kept: shapes that change from step to step must not pile up.
_MOST_CALLS = 512

_ALIGNMENT = 16


class _Result(NamedTuple):
    """Where a result lies in the memory that a call allocates."""

    name: str
    number: int
    shape: tuple[int, ...]
    steps: tuple[int, ...]
    start: int
    is_boolean: bool

    @classmethod
    def of(cls, name: str, array: DeviceArray, memories: Sequence[Tensor]) -> _Result:
        number = next(at for at, memory in enumerate(memories) if memory is array.owner)
        steps = tuple(step // array.itemsize for step in array.strides)
        start = (array.address - memories[number].data_ptr()) // array.itemsize
        return cls(name, number, array.shape, steps, start, array.dtype.kind == "b")

    def among(self, memories: Sequence[Tensor]) -> Tensor:
        memory = memories[self.number]
        if self.is_boolean:
            memory = memory.view(torch.bool)
        if memory.shape == self.shape and memory.stride() == self.steps:
            return memory
        return memory.as_strided(self.shape, self.steps, self.start)


@dataclass(frozen=True, slots=True)
class _Recorded:
    """What one call did."""

    launches: Launches
    allocated: list[tuple[torch.Size, torch.dtype]]
    results: list[_Result]

    def again(self, given: list[int], device: torch.device) -> dict[str, Tensor]:
        memories = [new_memory(shape, dtype, device) for shape, dtype in self.allocated]
        addresses = [*given, *map(address_of, memories)]
        self.launches.repeat(addresses, device.index, stream_of(device))
        return {result.name: result.among(memories) for result in self.results}


def call(
    backend: str | None,
    name: str,
    key: Hashable,
    tensors: Sequence[Tensor | None],
    compute: Compute,
) -> dict[str, Tensor]:
    """Results by name of a call on these tensors, of which the first one says where.

    `name` is what the first one is called. `key` is all that the call depends on beside the
    tensors; None where that is not known. `compute` gets the call's arrays.
    """
    first = tensors[0]
    assert first is not None
    device, chosen = first.device, pick(backend)
    addresses = [0 if one is None else address_of(one) for one in tensors]
    known = None
    if key is not None:
        layouts = [
            None if one is None else (one.dtype, one.shape, one.stride(), address % _ALIGNMENT)
            for one, address in zip(tensors, addresses, strict=True)
        ]
        key = key, device, *layouts
        known = chosen.recordings.get(key)
    if known is not None:
        repeated: dict[str, Tensor] = known.again(addresses, device)
        return repeated
    arrays = Arrays(home_of(plain(first)), name, backend)
    memories = _keep_memories(arrays)
    recorder = None if key is None else chosen.recorder()
    if recorder is not None:
        arrays.backend = recorder.backend
    found = compute(arrays)
    results = [_Result.of(name, array, memories) for name, array in found.items()]
    if recorder is not None:
        launches = recorder.launches([*addresses, *map(address_of, memories)])
        if launches is not None:
            if len(chosen.recordings) >= _MOST_CALLS:
                chosen.recordings.clear()
            allocated = [(memory.shape, memory.dtype) for memory in memories]
            chosen.recordings[key] = _Recorded(launches, allocated, results)
    return {result.name: result.among(memories) for result in results}


def _keep_memories(arrays: Arrays) -> list[Tensor]:
    """Let the call allocate as it does, and give the list of what it allocates."""
    given, memories = arrays.place, []
    allocator = given.allocator
    assert allocator is not None

    def allocate(shape: tuple[int, ...], dtype: Any, place: Place) -> DeviceArray:
        array = allocator(shape, dtype, place)
        memories.append(array.owner)
        return array

    arrays.place = arrays.first.place = Place(given.device, given.stream, allocate)
    return memories
