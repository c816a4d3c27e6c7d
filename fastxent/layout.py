"""From the caller's arrays to the (N, C) rows that kernels read, and back.

Kernels take rows with unit class stride, any row stride, native byte order and aligned elements.
Everything else (another class axis, Fortran order, reversed or stepped classes, foreign byte
order) is copied once, here, and nowhere else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fastxent.precision import Array

__all__ = ["OutputRows", "output_rows", "rows_of", "same_memory", "vector_of"]


def _is_rows(array: Array) -> bool:
    itemsize = array.itemsize
    rows, classes = array.shape
    return (
        array.dtype.isnative
        and array.flags.aligned
        and (classes <= 1 or array.strides[1] == itemsize)
        and (rows <= 1 or array.strides[0] % itemsize == 0)
    )


def _two_dimensional(array: Array, axis: int) -> Array:
    if array.ndim == 2 and axis == 1:
        return array  # np.moveaxis takes 9 us, a third of a small call
    moved = np.moveaxis(array, axis, -1)
    return moved.reshape(math.prod(moved.shape[:-1]), moved.shape[-1])


def rows_of(array: Array, axis: int) -> Array:
    """(N, C) rows of `array` with the classes of `axis` last: a view where one exists."""
    rows = _two_dimensional(array, axis)
    if _is_rows(rows):
        return rows
    return np.array(rows, dtype=rows.dtype.newbyteorder("="), order="C")


def vector_of(array: Array) -> Array:
    """One entry a row, contiguous, native and aligned: a view where one exists."""
    flat = array.reshape(-1)
    if flat.flags.c_contiguous and flat.flags.aligned and flat.dtype.isnative:
        return flat
    return np.array(flat, dtype=flat.dtype.newbyteorder("="), order="C")


def same_memory(first: Array, second: Array) -> bool:
    """Whether two arrays are the same elements in the same order: in-place, not overlap."""
    return first is second or (
        first.ctypes.data == second.ctypes.data
        and first.shape == second.shape
        and first.dtype == second.dtype
        and all(
            size <= 1 or step == other
            for size, step, other in zip(first.shape, first.strides, second.strides, strict=True)
        )
    )


@dataclass(slots=True)
class OutputRows:
    """An output in the caller's shape, and the rows that a backend fills for it.

    Attributes
    ----------
    array : numpy.ndarray
        What the caller gets: `out`, or a new C-ordered array.
    rows : (N, C) numpy.ndarray
        What the backend writes: a view of `array`, or a buffer of its own that `deliver` copies.
    """

    array: Array
    rows: Array
    axis: int

    def deliver(self) -> Array:
        """Give the caller's array, after copying into it what could not be written directly."""
        if not np.may_share_memory(self.array, self.rows) and self.rows.size:
            moved = np.moveaxis(self.array, self.axis, -1)
            np.copyto(moved, self.rows.reshape(moved.shape))
        return self.array


def output_rows(logits: Array, axis: int, out: Array | None) -> OutputRows:
    """Output of the shape of `logits`: in `out` if it is given (checked by the door), else new."""
    array = np.empty(logits.shape, logits.dtype.newbyteorder("=")) if out is None else out
    rows = _two_dimensional(array, axis)
    if not (_is_rows(rows) and np.may_share_memory(rows, array)):
        rows = np.empty(rows.shape, array.dtype)
    return OutputRows(array, rows, axis)
