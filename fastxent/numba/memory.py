"""What is checked of arrays while the caller's code runs, and where they lie."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastxent.backends.numba_cpu.jit import inlined
from fastxent.backends.numba_cpu.mean_loss import are_apart

__all__ = ["NOTHING", "NO_LABEL", "address", "check_classes", "check_rows", "check_written"]

# Numbers of NumPy: Numba compiles a kernel anew for each value of a literal.
NOTHING: Any = np.int64(0)  # where there is no array
NO_LABEL: Any = np.int64(-1)


@inlined
def address(array: Any) -> Any:
    """Where an array begins."""
    return np.int64(array.ctypes.data)


@inlined
def lie_side_by_side(array: Any) -> Any:
    """Whether its classes do."""
    return array.strides[array.ndim - 1] == array.itemsize or array.shape[array.ndim - 1] == 1


@inlined
def check_classes(logits: Any) -> None:
    """At least one class, and the classes side by side."""
    if logits.shape[logits.ndim - 1] == 0:
        raise ValueError("logits have no class along their last axis")
    if not lie_side_by_side(logits):
        raise ValueError("the classes of logits must lie side by side: use np.ascontiguousarray")


@inlined
def check_rows(array: Any, logits: Any) -> None:
    """Probabilities or an `out`: of the shape of the logits, and the classes side by side."""
    if array.shape != logits.shape:
        raise ValueError("out and probabilities need the shape of the logits")
    if not lie_side_by_side(array):
        raise ValueError("the classes of out and of probabilities must lie side by side")


@inlined
def reach(array: Any) -> tuple[Any, Any]:
    """Where the memory of an array begins, and how many bytes there are up to its end."""
    begin, size = address(array), array.shape[array.ndim - 1] * array.itemsize
    if array.ndim == 2:
        outer = (array.shape[0] - 1) * array.strides[0]
        return begin + min(outer, 0), size + abs(outer)
    return begin, size


@inlined
def check_rows_apart(out: Any) -> None:
    """No row of `out` shares memory with another."""
    if out.shape[0] > 1 and abs(out.strides[0]) < out.shape[1] * out.itemsize:
        raise ValueError("rows of out overlap each other: pass memory with room for each")


@inlined
def check_written(out: Any, array: Any, may_be_the_same: Any) -> None:
    """`out` shares no memory with an array that is read, unless it is the logits themselves."""
    if out.ndim == 2:
        check_rows_apart(out)
    if may_be_the_same and address(out) == address(array) and out.strides == array.strides:
        return
    begin, size = reach(out)
    other, other_size = reach(array)
    if out.size > 0 and not are_apart(begin, size, other, other_size):
        raise ValueError("out overlaps an input: pass the logits themselves, or memory of its own")
