"""How functions are compiled. Numba's type hints are partial, so here it loses them altogether."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba as _numba
import numba.extending as _extending

from fastxent.backends.numba_cpu.parts import PartCompiler

__all__ = [
    "by_pointer",
    "inlined",
    "intrinsic",
    "intrinsic_of_literals",
    "numba",
    "once",
    "parallel",
    "serial",
]

numba: Any = _numba
extending: Any = _extending

_Function = TypeVar("_Function", bound=Callable[..., Any])

# A division by zero gives inf or NaN; by default it raises, which no parallel loop may.
_OPTIONS = {"error_model": "numpy", "no_cfunc_wrapper": True}


def intrinsic(function: Callable[..., Any]) -> Any:
    """Function that writes its own LLVM instructions."""
    return extending.intrinsic(function)


def intrinsic_of_literals(function: Callable[..., Any]) -> Any:
    """The same, told the values of arguments that are constants."""
    return extending.intrinsic(prefer_literal=True)(function)


def inlined(function: _Function) -> _Function:
    """Compile a function into each of its callers."""
    decorate = numba.njit(
        forceinline=True, no_cpython_wrapper=True, pipeline_class=PartCompiler, **_OPTIONS
    )
    compiled: _Function = decorate(function)
    return compiled


def by_pointer(function: Callable[..., Any]) -> Any:
    """Compile a function that is called through a pointer, as C functions are."""
    options = _OPTIONS | {"no_cfunc_wrapper": False}
    return numba.njit(no_cpython_wrapper=True, **options)(function)


def once(function: _Function) -> _Function:
    """Compile a function that other compiled functions call: its code is there once in each."""
    decorate = numba.njit(no_cpython_wrapper=True, pipeline_class=PartCompiler, **_OPTIONS)
    compiled: _Function = decorate(function)
    return compiled


def serial(function: _Function) -> _Function:
    """Compile a function that runs on the calling thread, without the GIL."""
    compiled: _Function = numba.njit(nogil=True, **_OPTIONS)(function)
    return compiled


def parallel(function: _Function) -> _Function:
    """Compile a function whose `prange` runs on Numba's threads, without the GIL."""
    compiled: _Function = numba.njit(nogil=True, parallel=True, **_OPTIONS)(function)
    return compiled
