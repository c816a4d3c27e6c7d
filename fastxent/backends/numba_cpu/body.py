"""The work on one chunk as compiled code, which drivers call through a pointer.

A driver (drivers.py) knows nothing of what it drives, so each variant of a body is compiled once,
however its chunks are handed out. And a forked child, in which only the serial driver runs, finds
every body that its parent has used: it need not compile for seconds first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types

from fastxent.backends.numba_cpu import cache
from fastxent.backends.numba_cpu.jit import by_pointer, intrinsic, numba

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
        self._make = make
        self.compiled: dict[tuple[type, ...], Any] = {}
        self._addresses: dict[tuple[type, ...], int] = {}

    def __call__(self, *dummies: Any) -> int:
        """Address of a variant, which is compiled or loaded if it is asked for the first time."""
        key = tuple(map(type, dummies))
        address = self._addresses.get(key)
        return self._compile(key, dummies) if address is None else address

    def has(self, *dummies: Any) -> bool:
        """Whether a variant is compiled."""
        return tuple(map(type, dummies)) in self._addresses

    def _compile(self, key: tuple[type, ...], dummies: tuple[Any, ...]) -> int:
        # the lock that a fork waits for (forks.py), so that a child has the whole variant or none
        with numba.core.compiler_lock.global_compiler_lock:
            if key in self._addresses:  # another thread was faster
                return self._addresses[key]
            function = self._make(*dummies)
            # symbols of two variants are never the same, whatever process compiled them
            function.__name__ = "-".join((self._make.__name__, *(kind.__name__ for kind in key)))
            function.__qualname__ = function.__name__
            dispatcher = by_pointer(function)
            cache.attach([dispatcher])
            dispatcher.compile(_SIGNATURE)
            result = dispatcher.overloads[_SIGNATURE.args]
            wrapper = result.fndesc.llvm_cfunc_wrapper_name
            self.compiled[key] = dispatcher
            self._addresses[key] = result.library.get_pointer_to_function(wrapper)
            return self._addresses[key]

    def assembly(self) -> str:
        """What the variants were compiled to."""
        return "\n".join(d.inspect_asm(_SIGNATURE.args) for d in self.compiled.values())
