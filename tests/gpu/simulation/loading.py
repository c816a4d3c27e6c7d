"""Kernel modules, imported a second time with the simulated machine in place of the real one."""

from __future__ import annotations

import importlib
import inspect
import math as real_math
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np

from fastxent.backends.cuda import specs
from gpu.simulation import executor, machine
from gpu.simulation.memory import MEMORY, Fault
from gpu.simulation.scalars import CASTS, NUMPY, cuda, math

__all__ = ["PACKAGE", "aligned", "arguments_for", "load", "make", "run_kernel"]

PACKAGE = "fastxent.backends.cuda.kernels"
_MACHINE = "fastxent.backends.cuda.machine"
_lock = threading.RLock()
_simulated: dict[str, ModuleType] = {}


def _stand_ins() -> dict[str, ModuleType]:
    """Modules that kernel modules import: numba's decorator leaves a function as it is."""
    numba, target, extending = (
        ModuleType(name) for name in ("numba", "numba.cuda", "numba.cuda.extending")
    )
    extending.register_jitable = lambda function=None, **options: function or (lambda one: one)
    target.extending, target.local, numba.cuda = extending, cuda.local, target
    return {module.__name__: module for module in (numba, target, extending)} | {
        _MACHINE: machine  # type: ignore[dict-item]
    }


@contextmanager
def _in_place_of_real_ones() -> Iterator[None]:
    """`sys.modules`, and the packages' attributes, as they are to be while kernels are imported."""
    # not `import ... as`: `fastxent.backends` is a function for those who import fastxent
    parent = importlib.import_module("fastxent.backends.cuda")

    def ours(name: str) -> bool:
        return name == PACKAGE or name.startswith(PACKAGE + ".") or name in stand_ins

    stand_ins = _stand_ins()
    before = {name: module for name, module in sys.modules.items() if ours(name)}
    attributes = {name: parent.__dict__.get(name) for name in ("machine", "kernels")}
    for name in before:
        del sys.modules[name]
    sys.modules.update(stand_ins)
    sys.modules.update(_simulated)
    parent.machine = machine
    try:
        yield
    finally:
        for name in [name for name in sys.modules if ours(name)]:
            module = sys.modules.pop(name)
            if name not in stand_ins:
                _simulated[name] = module
        sys.modules.update(before)
        for name, value in attributes.items():
            if value is not None:
                setattr(parent, name, value)
            elif name in parent.__dict__:
                delattr(parent, name)


def load(module: str) -> ModuleType:
    """Return the simulated twin of a kernel module, named as in a `KernelSpec`."""
    name = f"{PACKAGE}.{module}"
    with _lock:
        if name not in _simulated:
            with _in_place_of_real_ones():
                importlib.import_module(name)
            for loaded in list(_simulated.values()):
                with_simulated_numbers(loaded)
        return _simulated[name]


def with_simulated_numbers(module: ModuleType) -> None:
    """Give a module's functions the casts, `math` and NumPy of the simulation."""
    for name, value in list(vars(module).items()):
        if value is np:
            setattr(module, name, NUMPY)
        elif value is real_math:
            setattr(module, name, math)
        elif isinstance(value, type) and value in CASTS:
            setattr(module, name, CASTS[value])


def make(module: str, variant: Any, geometry: Any) -> Callable[..., None]:
    """Return a kernel that `executor.run` takes."""
    return load(module).make(variant, geometry)


def _real_names() -> set[str]:
    tuples = [value for name, value in vars(specs).items() if name.endswith("REALS")]
    return {name for names in tuples for name in names}


def arguments_for(
    kernel: Callable[..., None], integers: Mapping[str, int], reals: Mapping[str, float]
) -> list[Any]:
    """Return a kernel's arguments in their order; those that are not given are 0."""
    names = list(inspect.signature(kernel).parameters)
    unknown = (set(integers) | set(reals)) - set(names)
    if unknown:
        raise Fault(f"{kernel.__qualname__} has no arguments {sorted(unknown)}")
    real = _real_names() | set(reals)
    return [
        np.float64(reals.get(name, 0.0)) if name in real else int(integers.get(name, 0))
        for name in names
    ]


def run_kernel(
    module_name: str,
    variant: Any,
    geometry: Any,
    grid: int,
    integers: Mapping[str, Any],
    reals: Mapping[str, float] | None = None,
    seed: int | None = None,
) -> None:
    """Run a kernel by the names of its arguments; absent ones are 0.

    An array among `integers` (contiguous, or a contiguous part of one) stands for its address:
    kernels read and write it in place, and all of the memory it is a view of is theirs.
    """
    kernel = make(module_name, variant, geometry)
    spec = specs.KernelSpec(module_name, variant, geometry)
    wholes: dict[int, np.ndarray] = {}
    addresses: dict[str, int] = {}
    for name, value in integers.items():
        if isinstance(value, np.ndarray):
            whole = value
            while isinstance(whole.base, np.ndarray):
                whole = whole.base
            wholes[whole.ctypes.data] = whole
            value = value.ctypes.data
        addresses[name] = int(value)
    for whole in wholes.values():
        MEMORY.register(whole)
    try:
        arguments = arguments_for(kernel, addresses, reals or {})
        executor.run(kernel, grid, spec.threads, spec.cluster, arguments, seed)
    finally:
        for address in wholes:
            MEMORY.free(address)


def aligned(array: Any, offset: int = 0, room: int = 0) -> np.ndarray:
    """Return a copy of an array that begins `offset` bytes after a multiple of 256.

    The memory ends with the array, `room` bytes later if that is given: what a kernel reads behind
    it is found.
    """
    array = np.ascontiguousarray(array)
    whole = np.zeros(offset + array.nbytes + room + 256, np.uint8)
    first = -whole.ctypes.data % 256
    exact = _exact(whole, first, offset + array.nbytes + room)
    copy = exact[offset : offset + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def _exact(whole: np.ndarray, first: int, nbytes: int) -> np.ndarray:
    """Return a part that is the end of its chain of bases."""
    return np.frombuffer(memoryview(whole)[first : first + nbytes], np.uint8)
