"""The work on one chunk as compiled code, which drivers call through a pointer.

A driver (drivers.py) knows nothing of what it drives, so each variant of a body is compiled once,
however its chunks are handed out. And a forked child, in which only the serial driver runs, finds
every body that its parent has used: it need not compile for seconds first.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types

from fastxent.backends.numba_cpu import cache
from fastxent.backends.numba_cpu.jit import by_pointer, intrinsic

__all__ = ["Body", "call_body"]

# place, other, number, scratch -> what a driver adds up or asks for
_SIGNATURE = types.float64(*[types.int64] * 4)
_INT64 = ir.IntType(64)


@intrinsic
def call_body(typing: Any, body: Any, place: Any, other: Any, number: Any, scratch: Any) -> Any:
    """Call the body at an address with its four integers."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        kind = ir.FunctionType(ir.DoubleType(), [_INT64] * 4)
        return builder.call(builder.inttoptr(values[0], kind.as_pointer()), values[1:])

    return types.float64(*[types.int64] * 5), codegen


class Body:
    """A decorator: what a function makes for each set of dummies is compiled, once for each.

    Numba takes what the function closes over for constants, and leaves out what stands behind
    `is not None` of a dummy that is None.

    Parameters
    ----------
    make : callable
        Takes dummies, None or a number each; gives a function of `place` and `other` (addresses),
        the number of a chunk, and the address of memory of the worker's own, that returns a float.

    Attributes
    ----------
    compiled : dict
        Numba's dispatcher of each variant, by the types of its dummies.
    """

    def __init__(self, make: Callable[..., Callable[..., Any]]) -> None:
        self.__doc__ = make.__doc__
        self._make, self._lock = make, threading.Lock()
        self.compiled: dict[tuple[type, ...], Any] = {}
        self._addresses: dict[tuple[type, ...], int] = {}
        if hasattr(os, "register_at_fork"):
            # a thread that compiles while another one forks is not there in the child
            os.register_at_fork(after_in_child=self._renew_lock)

    def _renew_lock(self) -> None:
        self._lock = threading.Lock()

    def __call__(self, *dummies: Any) -> int:
        """Address of a variant, which is compiled or loaded if it is asked for the first time."""
        key = tuple(map(type, dummies))
        address = self._addresses.get(key)
        return self._compile(key, dummies) if address is None else address

    def _compile(self, key: tuple[type, ...], dummies: tuple[Any, ...]) -> int:
        with self._lock:
            if key in self._addresses:  # another thread was faster
                return self._addresses[key]
            dispatcher = by_pointer(self._make(*dummies))
            names = (self._make.__name__, *(kind.__name__ for kind in key))
            cache.attach([dispatcher], "-".join(names))
            dispatcher.compile(_SIGNATURE)
            result = dispatcher.overloads[_SIGNATURE.args]
            wrapper = result.fndesc.llvm_cfunc_wrapper_name
            self.compiled[key] = dispatcher
            address: int = result.library.get_pointer_to_function(wrapper)
            return self._addresses.setdefault(key, address)

    def assembly(self) -> str:
        """What the variants were compiled to."""
        return "\n".join(d.inspect_asm(_SIGNATURE.args) for d in self.compiled.values())
