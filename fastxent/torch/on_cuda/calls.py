"""Calls of the backend: decided once, launched for all tensors that differ in their numbers only.

The checks, the algebra and the choice of kernels take Python longer than a small call takes the
GPU. They depend on dtypes, shapes, strides, alignments and options, so the first call of its kind
goes through them with arrays that have no memory, and its launches are made again for every other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fastxent import checks
from fastxent.backends.contract import DeviceBackend
from fastxent.device_array import DeviceArray, Place
from fastxent.interchange import home_of
from fastxent.on_device.arrays import Arrays
from fastxent.on_device.keys import is_known_again
from fastxent.on_device.recorded import VECTOR, Recorded, keep, recorded
from fastxent.torch.on_cuda.arrays import address_of, new_memory, pick, plain, stream_of

__all__ = ["Compute", "call", "key_of"]

# Of the arrays of a call and of what it is given: its results, by name.
Compute = Callable[[Arrays, Mapping[str, Any]], dict[str, DeviceArray]]

# What stands for a plan that was not looked for; None is for a call that has none.
_UNKNOWN: Any = object()

_TO_TORCH = {
    np.dtype(name): getattr(torch, name) for name in ("float16", "float32", "float64", "int64")
} | {np.dtype(np.uint8): torch.uint8, np.dtype(np.bool_): torch.bool}


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
    """A recorded call whose results are tensors.

    Parameters
    ----------
    recorded : Recorded
    names : iterable of str
        Those of its results.
    """

    def __init__(self, recorded: Recorded, names: Iterable[str]) -> None:
        self._recorded = recorded
        named = zip(names, recorded.numbers, recorded.results, strict=True)
        self._results = [_Result.of(*one) for one in named]

    def start(self, beginnings: list[int], device: torch.device) -> dict[str, Tensor]:
        """Launch for the tensors that begin there."""
        found = {}
        begin, nbytes = 0, self._recorded.nbytes
        if nbytes:
            shared = new_memory((nbytes,), torch.uint8, device)
            begin = address_of(shared)
        given = len(beginnings)
        beginnings += self._recorded.beginnings(begin)
        for result in self._results:
            found[result.name] = memory = result.new(device)
            beginnings[given + result.number] = address_of(memory)
        self._recorded.launch(Place(device.index, stream_of(device)), tuple(beginnings))
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
        distance = address % VECTOR
        beginnings.append(address - distance)
        layouts.append((tensor.dtype, tensor.shape, tensor.stride(), distance))
    key = key, device, *given, *layouts
    plans = chosen.plans
    plan = plans.get(key, _UNKNOWN)
    if plan is _UNKNOWN:
        plan = _planned(chosen, given, compute)
        keep(plans, key, plan)
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
    given = _read(tensors)
    found: dict[str, DeviceArray] = {}

    def calls(shown: list[DeviceArray]) -> Iterable[DeviceArray]:
        named = dict(zip(given, shown, strict=True))
        found.update(compute(_arrays(backend, named), named))
        return found.values()

    plan = recorded(backend, given.values(), calls)
    return None if plan is None else _Plan(plan, found)


def _arrays(backend: DeviceBackend, given: Mapping[str, DeviceArray]) -> Arrays:
    name, first = next(iter(given.items()))
    return Arrays(home_of(first), name, backend, first)


def _computed(
    backend: DeviceBackend, tensors: Mapping[str, Tensor], compute: Compute
) -> dict[str, Tensor]:
    """The call as it is."""
    given = _read(tensors)
    found = compute(_arrays(backend, given), given)
    return {name: _Result.of(name, 0, array).within(array.owner) for name, array in found.items()}
