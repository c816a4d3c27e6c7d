"""Rows of arrays of any layout and kind, a chunk at a time, without temporaries of their size."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from fastxent.layout import rows_view
from fastxent.precision import Array, narrow

__all__ = ["is_blas_matrix", "moved_rows", "pieces", "read_rows", "runs", "view_of", "write_rows"]

# Elements that are rounded to bfloat16 at a time: the temporaries stay in the cache.
_GROUP = 1 << 14

# The largest dimension and stride that a BLAS with 32-bit integers takes.
_MOST_BLAS = 2**31 - 1

# Leading dimensions that kernels can count through.
_MOST_LEADING = 4

Index = tuple[int | slice, ...]


def moved_rows(array: Array, axis: int) -> Array:
    """(rows.., width) view of an array, its `axis` last and neighbours merged where they can be."""
    rows = rows_view(array, axis)
    return np.moveaxis(array, axis, -1) if rows is None else rows


def runs(shape: tuple[int, ...], start: int, stop: int) -> Iterator[tuple[int, int, Index]]:
    """Cut a range of rows, counted in C order, into pieces that an index picks as a view.

    Gives where each piece begins and ends, and its index into the leading dimensions.
    """
    if start >= stop:
        return
    if len(shape) == 1:
        yield start, stop, (slice(start, stop),)
        return
    inner = math.prod(shape[1:])
    first, last = start // inner, stop // inner
    if start % inner:
        end = min(stop, (first + 1) * inner)
        for begin, until, index in runs(shape[1:], start % inner, end - first * inner):
            yield begin + first * inner, until + first * inner, (first, *index)
        first += 1
    if first < last and len(shape) <= _MOST_LEADING:
        yield first * inner, last * inner, (slice(first, last),)
    elif first < last:
        for at in range(first, last):
            for begin, until, index in runs(shape[1:], 0, inner):
                yield begin + at * inner, until + at * inner, (at, *index)
    if first <= last and stop % inner:
        for begin, until, index in runs(shape[1:], 0, stop % inner):
            yield begin + last * inner, until + last * inner, (last, *index)


def pieces(arrays: list[Array], start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Cut a range of rows into the longest pieces that are views in all arrays of (rows.., C)."""
    for array in arrays:
        cut = list(runs(array.shape[:-1], start, stop))
        if len(cut) > 1:
            for begin, end, _ in cut:
                yield from pieces(arrays, begin, end)
            return
    if start < stop:
        yield start, stop


def view_of(rows: Array, start: int, stop: int) -> Array:
    """View of a piece that `pieces` gave."""
    ((_, _, index),) = runs(rows.shape[:-1], start, stop)
    return rows[index]


def read_rows(rows: Array, kind: str, start: int, stop: int, into: Array) -> None:
    """Copy rows of (rows.., width) into a C-ordered matrix, in its dtype."""
    for begin, end, index in runs(rows.shape[:-1], start, stop):
        part = rows[index]
        read(part, kind, into[begin - start : end - start].reshape(part.shape))


def read(part: Array, kind: str, into: Array) -> None:
    """Copy numbers of any kind into an array of the same shape and of a dtype to compute with."""
    if kind != "bfloat16":
        into[...] = part
    elif into.dtype == np.float32:
        bits = into.view(np.uint32)
        bits[...] = part.view(np.uint16)
        np.left_shift(bits, 16, out=bits)
    else:
        for group in _groups(part):
            wide = part[group].view(np.uint16).astype(np.uint32) << 16
            into[group] = wide.view(np.float32)


def write_rows(values: Array, rows: Array, kind: str, start: int, stop: int) -> None:
    """Copy a matrix to rows of (rows.., width), rounded to their kind."""
    for begin, end, index in runs(rows.shape[:-1], start, stop):
        part = rows[index]
        write(values[begin - start : end - start].reshape(part.shape), part, kind)


def write(values: Array, part: Array, kind: str) -> None:
    """Copy numbers to an array of the same shape, rounded to its kind."""
    if kind != "bfloat16":
        with np.errstate(over="ignore", under="ignore"):  # infinite in float16: the caller's choice
            part[...] = values
        return
    for group in _groups(part):
        part[group].view(np.uint16)[...] = narrow(
            values[group].astype(np.float32, copy=False), kind
        )


def _groups(array: Array) -> Iterator[Any]:
    """Slices of the first axis of about `_GROUP` elements."""
    step = max(1, _GROUP * array.shape[0] // max(1, array.size))
    for start in range(0, array.shape[0], step):
        yield slice(start, start + step)


def is_blas_matrix(array: Array, dtype: np.dtype[Any]) -> bool:
    """Whether matmul hands this matrix to BLAS where it lies, transposed or not; else it copies."""
    if array.dtype != dtype or not array.flags.aligned:
        return False
    (rows, columns), (down, across) = array.shape, array.strides
    item = array.itemsize
    for near, far, size, others in ((across, down, columns, rows), (down, across, rows, columns)):
        if (near == item or size <= 1) and far % item == 0:
            step = far // item
            if (others <= 1 or step >= max(1, size)) and max(step, size, others) <= _MOST_BLAS:
                return True
    return False
