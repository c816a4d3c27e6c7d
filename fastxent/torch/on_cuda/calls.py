"""Calls of the backend: computed the first time, repeated for tensors that are the same but for
their numbers and addresses.

Python needs hundreds of microseconds to check a call and to decide what to launch, and what it
decides depends on dtypes, shapes, strides, alignments and options alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastxent.backends.contract import Launches
from fastxent.device_array import DeviceArray, Place
from fastxent.interchange import home_of
from fastxent.on_device.arrays import Arrays
from fastxent.torch.on_cuda.arrays import address_of, new_memory, pick, plain, stream_of

__all__ = ["Compute", "call", "key_of"]

# What is told apart by equality and type.
_SIMPLE = {bool, float, int, str, type(None)}

# Of the results of a call, by name.
Compute = Callable[[Arrays], dict[str, DeviceArray]]

# Calls that are kept: shapes that change from step to step must not pile up.
_MOST_CALLS = 512

# Addresses are alike where they are alike to vectors of this size.
_VECTOR = 16

# What PyTorch's allocator aligns to at least, so far apart are arrays that share its memory.
_LINE = 64


class _Result(NamedTuple):
    """A result: its memory among all that a call allocates, and how it lies there."""

    name: str
    number: int
    shape: tuple[int, ...]
    steps: tuple[int, ...]
    start: int
    dtype: torch.dtype

    @classmethod
    def of(cls, name: str, array: DeviceArray, memories: Sequence[Tensor]) -> _Result:
        number = next(at for at, memory in enumerate(memories) if memory is array.owner)
        memory = memories[number]
        steps = tuple(step // array.itemsize for step in array.strides)
        start = (array.address - memory.data_ptr()) // array.itemsize
        dtype = torch.bool if array.dtype.kind == "b" else memory.dtype
        return cls(name, number, array.shape, steps, start, dtype)

    def within(self, memory: Tensor) -> Tensor:
        """The result as a tensor that is no view, which an autograd function may give."""
        if memory.dtype != self.dtype:
            memory = memory.view(self.dtype)
        if memory.shape != self.shape or memory.stride() != self.steps:
            memory = memory.as_strided(self.shape, self.steps, self.start)
        return memory.new_empty(0).set_(memory) if memory._is_view() else memory

    def is_all_of(self, memory: Tensor) -> bool:
        """Whether new memory of the result's own shape would do as well."""
        whole = torch.empty(self.shape, device="meta").stride() == self.steps
        return whole and self.start == 0 and math.prod(self.shape) == memory.numel()


class _Recorded:
    """What one call did: its launches, and the memory it allocated.

    What is no result shares one piece of memory when the call is repeated.
    """

    __slots__ = ("_launches", "_places", "_results", "_scratch")

    def __init__(
        self, launches: Launches, memories: Sequence[Tensor], results: Sequence[_Result]
    ) -> None:
        self._launches = launches
        self._results = [
            (one, memories[one.number].shape, memories[one.number].dtype, False)
            if not one.is_all_of(memories[one.number])
            else (one, one.shape, one.dtype, True)
            for one in results
        ]
        # of each memory: which result it is, or where it begins in what is shared
        number_of = {one.number: at for at, one in enumerate(results)}
        self._places: list[tuple[bool, int]] = []
        self._scratch = 0
        for number, memory in enumerate(memories):
            if number in number_of:
                self._places.append((True, number_of[number]))
            else:
                self._places.append((False, self._scratch))
                self._scratch += -(-memory.nbytes // _LINE) * _LINE

    def again(self, given: list[int], device: torch.device) -> dict[str, Tensor]:
        """Launch the same for the tensors at these addresses."""
        memories = [new_memory(shape, dtype, device) for _, shape, dtype, _ in self._results]
        begin = 0
        if self._scratch:
            scratch = new_memory((self._scratch,), torch.uint8, device)
            begin = address_of(scratch)
        addresses = [
            address_of(memories[at]) if is_result else begin + at for is_result, at in self._places
        ]
        self._launches.repeat(given + addresses, device.index, stream_of(device))
        return {
            result.name: memory if is_whole else result.within(memory)
            for (result, _, _, is_whole), memory in zip(self._results, memories, strict=True)
        }


def key_of(verb: str, *options: Any) -> Hashable:
    """All that a call depends on beside its tensors; None where that cannot be told."""
    kinds = tuple(map(type, options))
    return (verb, options, kinds) if _SIMPLE.issuperset(kinds) else None


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
    if key is not None:
        key = (
            *(key, device),
            *(
                None if one is None else (one.dtype, one.shape, one.stride(), address % _VECTOR)
                for one, address in zip(tensors, addresses, strict=True)
            ),
        )
        known: _Recorded | None = chosen.recordings.get(key)
        if known is not None:
            return known.again(addresses, device)
    arrays = Arrays(home_of(plain(first)), name, backend)
    memories = _keep_memories(arrays)
    recorder = None if key is None else chosen.recorder()
    if recorder is not None:
        arrays.backend = recorder.backend
    found = compute(arrays)
    results = [_Result.of(name, array, memories) for name, array in found.items()]
    if recorder is not None:
        launches = recorder.launches([*addresses, *map(address_of, memories)])
        is_clear = len({one.number for one in results}) == len(results)
        if launches is not None and is_clear:
            if len(chosen.recordings) >= _MOST_CALLS:
                chosen.recordings.clear()
            chosen.recordings[key] = _Recorded(launches, memories, results)
    return {result.name: result.within(memories[result.number]) for result in results}


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
