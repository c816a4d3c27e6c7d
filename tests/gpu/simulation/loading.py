"""Kernel modules, imported a second time with the simulated machine in place of the real one."""

from __future__ import annotations

import builtins
import importlib.util
import inspect
import threading
from collections.abc import Callable, Mapping
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from fastxent.backends.cuda import specs
from gpu.simulation import executor, machine
from gpu.simulation.fault import Fault
from gpu.simulation.memory import MEMORY
from gpu.simulation.scalars import NUMPY, cuda, math

__all__ = ["aligned", "arguments_for", "load", "make", "run_kernel"]

_BACKEND = "fastxent.backends.cuda"
_KERNELS = f"{_BACKEND}.kernels"
_lock = threading.RLock()
_twins: dict[str, ModuleType] = {}


def _undecorated(function: Any = None, **options: Any) -> Any:
    return function or (lambda one: one)


# numba's decorator leaves a function as it is, so that the package need not be there.
_EXTENDING = SimpleNamespace(register_jitable=_undecorated)
_STAND_INS: dict[str, Any] = {
    "numpy": NUMPY,
    "math": math,
    f"{_BACKEND}.machine": machine,
    "numba": SimpleNamespace(cuda=SimpleNamespace(local=cuda.local, extending=_EXTENDING)),
    "numba.cuda": SimpleNamespace(local=cuda.local, extending=_EXTENDING),
    "numba.cuda.extending": _EXTENDING,
}


def _import(
    name: str,
    namespace: Any = None,
    local: Any = None,
    names: Any = (),
    level: int = 0,
) -> Any:
    """Import for a kernel module: stand-ins, twins of other kernel modules, or the real thing."""
    if name in _STAND_INS:
        return _STAND_INS[name]
    if name.startswith(_KERNELS + ".") and names:
        return load(name.removeprefix(_KERNELS + "."))
    if name == _KERNELS and names:
        return SimpleNamespace(**{one: load(one) for one in names})
    if name == _BACKEND and names and "machine" in names:  # never the real one, nor Numba
        others = tuple(one for one in names if one != "machine")
        package = builtins.__import__(name, namespace, local, others or ("__name__",), level)
        return SimpleNamespace(machine=machine, **{one: getattr(package, one) for one in others})
    return builtins.__import__(name, namespace, local, names, level)


_BUILTINS = {**vars(builtins), "__import__": _import}


def load(module: str) -> ModuleType:
    """Return the simulated twin of a kernel module, named as in a `KernelSpec`."""
    with _lock:
        twin = _twins.get(module)
        if twin is None:
            name = f"{_KERNELS}.{module}"
            spec = importlib.util.find_spec(name)
            if spec is None:
                raise Fault(f"there is no module {name}")
            code = spec.loader.get_code(name)  # type: ignore[union-attr]
            twin = ModuleType(f"simulated {module}")
            twin.__file__ = spec.origin
            vars(twin)["__builtins__"] = _BUILTINS
            exec(code, vars(twin))
            _twins[module] = twin
        return twin


def make(module: str, variant: Any, geometry: Any) -> Callable[..., None]:
    """Return a kernel that `executor.run` takes; its arguments are those that `specs` has."""
    kernel = load(module).make(variant, geometry)
    names = list(inspect.signature(kernel).parameters)
    integers, reals = specs.ARGUMENTS[module]
    if names != [*integers, *reals]:
        raise Fault(f"the arguments of a kernel of {module} are not those of specs: {names}")
    return kernel


def arguments_for(
    module: str, integers: Mapping[str, int], reals: Mapping[str, float]
) -> list[Any]:
    """Return a kernel's arguments in their order; those that are not given are 0."""
    integer_names, real_names = specs.ARGUMENTS[module]
    unknown = (set(integers) - set(integer_names)) | (set(reals) - set(real_names))
    if unknown:
        raise Fault(f"kernels of {module} have no arguments {sorted(unknown)}")
    return [int(integers.get(name, 0)) for name in integer_names] + [
        np.float64(reals.get(name, 0.0)) for name in real_names
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
        arguments = arguments_for(module_name, addresses, reals or {})
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
