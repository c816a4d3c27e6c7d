"""From the caller's arrays to the rows that kernels see, and back: views wherever there can be one.

Kernels take (rows.., C): the classes last, up to four leading dimensions, any strides. What is
copied all the same is in `COPIED`, and nowhere else is anything copied.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastxent.precision import Array, native

__all__ = [
    "COPIED",
    "OutputRows",
    "empty_aligned",
    "empty_like",
    "join_axes",
    "order_of",
    "output_rows",
    "rows_of",
    "rows_view",
    "same_memory",
    "split_axes",
    "stand_in",
    "take_rows",
    "vector_of",
]

# What no view can show to kernels, as show_config tells it.
COPIED = (
    "logits or probabilities of foreign byte order",
    "logits or probabilities with more than four row dimensions that do not merge",
    "softmax over several axes that do not merge into one",
    "labels and weights that are not contiguous",
    "weight, pos_weight and grad_output of the binary loss in a dtype that it does not compute in",
    "grad_output of the binary loss under reduction='mean', if it is an array",
)

# Leading dimensions that kernels can count through.
_MOST_LEADING = 4

# Bytes of a line of the cache. Stores that straddle two lines cost 7 to 21 % of a pass through
# memory; where the arrays stay in the cache a call is too short to pay for the placing.
_LINE = 64
_WORTH_PLACING = 1 << 14


def _merged_shape(array: Array) -> list[int]:
    """Leading dimensions, neighbours made one where their strides allow it, those of 1 left out."""
    shape: list[int] = []
    outer = 0
    for size, step in zip(array.shape[:-1], array.strides[:-1], strict=True):
        if size == 1:
            continue
        if shape and outer == size * step:
            shape[-1] *= size
        else:
            shape.append(size)
        outer = step
    return shape or [1]


def _classes_last(array: Array, axis: int) -> Array:
    if axis == array.ndim - 1:
        return array
    # np.moveaxis takes 9 us, a third of a small call
    return array.transpose(*range(axis), *range(axis + 1, array.ndim), axis)


def rows_view(array: Array, axis: int) -> Array | None:
    """The rows of an array as a view of it, None where there is none."""
    moved = _classes_last(array, axis)
    if moved.ndim == 2:
        return moved
    classes = moved.shape[-1]
    if not moved.size:
        return moved.reshape(math.prod(moved.shape[:-1]), classes)
    shape = _merged_shape(moved)
    return moved.reshape(*shape, classes) if len(shape) <= _MOST_LEADING else None


def _bits(rows: Array, kernel: np.dtype[Any]) -> Array:
    return rows if rows.dtype == kernel else rows.view(kernel)


def rows_of(array: Array, axis: int, kernel: np.dtype[Any]) -> Array:
    """(rows.., C) of an array with the classes of `axis` last, as the dtype that kernels get.

    A view, but for foreign byte order and more dimensions than kernels can count through.
    """
    if not array.dtype.isnative:
        array = array.astype(native(array.dtype))
    rows = rows_view(array, axis)
    if rows is None:
        moved = np.ascontiguousarray(_classes_last(array, axis))
        rows = moved.reshape(-1, moved.shape[-1])
    return _bits(rows, kernel)


def take_rows(rows: Array, numbers: slice | Array) -> Array:
    """The rows of these numbers, (n, C), out of rows with any leading dimensions."""
    if rows.ndim == 2:
        return rows[numbers]
    if isinstance(numbers, slice):
        numbers = np.arange(numbers.start, numbers.stop)
    return rows[np.unravel_index(numbers, rows.shape[:-1])]


def vector_of(array: Array) -> Array:
    """One entry a row, contiguous, native and aligned: a view where one exists."""
    flat = array.reshape(-1)
    if flat.flags.c_contiguous and flat.flags.aligned and flat.dtype.isnative:
        return flat
    return np.array(flat, dtype=native(flat.dtype), order="C")


def stand_in(array: Any) -> Array:
    """Zeros that take no memory, of the shape of what is not here: for checks.

    In native byte order: `rows_of` would make room for all of them in a foreign one.
    """
    return np.broadcast_to(np.zeros((), native(np.dtype(array.dtype))), array.shape)


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


def empty_aligned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """New C-ordered array; a large one begins at a line of the cache."""
    size = math.prod(shape) * dtype.itemsize
    if size < _WORTH_PLACING:
        return np.empty(shape, dtype)
    memory = np.empty(size + _LINE, np.uint8)
    start = -memory.__array_interface__["data"][0] % _LINE
    return np.ndarray(shape, dtype, memory, start)


def empty_like(
    given: Array, dtype: np.dtype[Any], empty: Callable[..., Array] = empty_aligned
) -> Array:
    """New array laid out in memory as `given`, where that has no gaps; C-ordered otherwise.

    `empty` gives C-ordered memory.
    """
    if given.flags.c_contiguous:
        return empty(given.shape, dtype)
    order = order_of(given, range(given.ndim))
    dense = given.itemsize
    for axis in reversed(order):
        if given.shape[axis] > 1:
            if abs(given.strides[axis]) != dense:
                return empty(given.shape, dtype)
            dense *= given.shape[axis]
    memory = empty(tuple(given.shape[axis] for axis in order), dtype)
    return memory.transpose(_inverse(order))


def order_of(array: Array, axes: Any) -> list[int]:
    """Axes from the longest stride to the shortest."""
    return sorted(axes, key=lambda axis: -abs(array.strides[axis]))


def _inverse(order: list[int]) -> list[int]:
    return sorted(range(len(order)), key=order.__getitem__)


def _split_order(ndim: int, joined: list[int]) -> list[int]:
    return [axis for axis in range(ndim) if axis not in joined] + joined


def join_axes(array: Array, joined: list[int]) -> Array | None:
    """View with some axes made one, which comes last; None where no view does that."""
    moved = array.transpose(_split_order(array.ndim, joined))
    at = moved.ndim - len(joined)
    if moved.size and len(joined) > 1 and len(_merged_shape(moved[(0,) * at][..., None])) > 1:
        return None
    return moved.reshape(*moved.shape[:at], math.prod(moved.shape[at:]))


def split_axes(array: Array, shape: tuple[int, ...], joined: list[int]) -> Array:
    """Undo `join_axes`: a view with the shape that came in."""
    order = _split_order(len(shape), joined)
    return array.reshape([shape[axis] for axis in order]).transpose(_inverse(order))


@dataclass(slots=True)
class OutputRows:
    """An output in the caller's shape, and the rows that a backend fills for it.

    Attributes
    ----------
    array : numpy.ndarray
        What the caller gets: `out`, or a new array laid out as the input.
    rows : (rows.., C) numpy.ndarray
        What the backend writes: a view of `array`, or a buffer that `deliver` copies.
    """

    array: Array
    rows: Array
    axis: int
    buffered: bool

    def deliver(self) -> Array:
        """Give the caller's array, after copying into it what could not be written directly."""
        if self.buffered:
            moved = _classes_last(self.array, self.axis)
            moved[...] = self.rows.view(self.array.dtype).reshape(moved.shape)
        return self.array


def output_rows(
    given: Array, axis: int, out: Array | None, dtype: np.dtype[Any], kernel: np.dtype[Any]
) -> OutputRows:
    """Output of the shape of `given`: in `out` if there is one (checked by the door), else new."""
    array = empty_like(given, dtype) if out is None else out
    rows = rows_view(array, axis)
    if rows is not None:
        return OutputRows(array, _bits(rows, kernel), axis, buffered=False)
    classes = array.shape[axis]
    rows = empty_aligned((array.size // classes, classes), kernel)
    return OutputRows(array, rows, axis, buffered=True)
