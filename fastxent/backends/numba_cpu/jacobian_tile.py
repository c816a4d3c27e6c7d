"""The Jacobian products with a row in each lane: few classes, or classes that do not lie close.

The C++ twin is src_cython/jacobian_tile.hpp. In a tile class k of all its rows begins at
`k * lane_count`, in the compute dtype.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastxent.backends.numba_cpu.arithmetic import narrowed, splat_wide, widened
from fastxent.backends.numba_cpu.jacobian_rows import closed, summed
from fastxent.backends.numba_cpu.jit import inlined, once
from fastxent.backends.numba_cpu.lanes import (
    address_of,
    lane_count,
    load,
    pointer,
    prefetch,
    stack,
    store,
)
from fastxent.backends.numba_cpu.long_sum import value_of_each, with_number
from fastxent.backends.numba_cpu.matrix import DOUBLE, item_size, lie_in_lanes, row_of
from fastxent.backends.numba_cpu.tile_memory import typed_lanes
from fastxent.backends.numba_cpu.transform import deliver, numbers_of
from fastxent.backends.numba_cpu.transpose import gather, scatter

__all__ = ["TILES", "tiles_chunk"]

# Classes that are added up in one go: as many additions as a chain of row.py has in float64.
_RUN = 32
# Tiles that are taken together where rows lie side by side.
TILES = 4


@inlined
def is_direct(matrix: Any) -> Any:
    """Whether classes lie side by side, as numbers that are computed with."""
    return matrix.kind <= DOUBLE and matrix.class_stride == item_size(matrix.kind)


@once
def load_tile(
    matrix: Any, row: int, count: int, classes: int, numbers: Any, staged: Any, stored: Any,
    zero: Any,
) -> None:  # fmt: skip
    """Rows of an array into a tile; lanes without a row hold anything."""
    if lie_in_lanes(matrix, row, count):
        source, stride = row_of(matrix, row), matrix.class_stride
        typed_lanes(source, stride, count, classes, numbers, stored, zero)
        return
    places, direct = stack(16, np.int64(0)), is_direct(matrix)
    for r in range(lane_count(zero)):
        places[r] = row_of(matrix, row + r) if r < count else places[0]
        if r < count and not direct:
            own = pointer(staged, r * classes, zero)
            numbers_of(matrix, places[r], 0, classes, own, stored, None, zero)
            places[r] = address_of(own)
    gather(places, classes, numbers, zero)


@inlined
def class_of(first: Any, grad: Any, k: int, total: Any, log: Any, zero: Any) -> Any:
    """What becomes of class k."""
    p = load(first, k * lane_count(zero), None, 0.0, zero)
    g = load(grad, k * lane_count(zero), None, 0.0, zero)
    return closed(p, g, total, log, zero)


@once
def close_tile(
    matrix: Any, row: int, count: int, classes: int, first: Any, grad: Any, total: Any,
    staged: Any, log: Any, stored: Any, zero: Any,
) -> None:  # fmt: skip
    """Write a tile's rows to an array; in the tile they take the place of `first`."""
    rows = lane_count(zero)
    if lie_in_lanes(matrix, row, count):
        to, stride = row_of(matrix, row), matrix.class_stride
        for k in range(classes):
            lane = class_of(first, grad, k, total, log, zero)
            if count == rows:
                store(pointer(to + k * stride, 0, stored), 0, None, lane)
            else:
                store(pointer(to + k * stride, 0, stored), 0, count, lane)
        return
    for k in range(classes):
        store(first, k * rows, None, class_of(first, grad, k, total, log, zero))
    places, direct = stack(16, np.int64(0)), is_direct(matrix)
    for r in range(rows):
        places[r] = address_of(pointer(staged, r * classes, zero))
        if direct and r < count:
            places[r] = row_of(matrix, row + r)
    scatter(places, classes, first, zero)
    if not direct:
        for r in range(count):
            own = pointer(staged, r * classes, zero)
            deliver(own, 1.0, classes, matrix, row_of(matrix, row + r), 0, stored, None, zero)


@once
def tile_sum(p: Any, first: Any, grad: Any, next_row: int, log: Any, zero: Any) -> Any:
    """Sums of a tile's rows; lines of a later tile are fetched, as in tile_forward."""
    step, every = lane_count(zero), (splat_wide(0.0, zero), splat_wide(0.0, zero))
    to_first = pointer(row_of(p.first, next_row), 0, np.uint8(0))
    to_grad = pointer(row_of(p.grad, next_row), 0, np.uint8(0))
    to_out = pointer(row_of(p.out, next_row), 0, np.uint8(0))
    for begin in range(0, p.classes, _RUN):
        run = splat_wide(0.0, zero)
        for k in range(begin, min(begin + _RUN, p.classes)):
            prefetch(to_first, 64 * k, 0)
            prefetch(to_grad, 64 * k, 0)
            prefetch(to_out, 64 * k, 1)
            of_first = load(first, k * step, None, 0.0, zero)
            of_grad = load(grad, k * step, None, 0.0, zero)
            run = run + widened(summed(of_first, of_grad, log))
        every = with_number(every, run)
    return narrowed(value_of_each(every), zero)


@inlined
def kept(first: Any, grad: Any, numbers: Any, i: int, run: Any, log: Any, zero: Any) -> Any:
    """Tile i of a strip: its numbers of one class, kept and added to the sum."""
    step = lane_count(zero)
    p, g = load(first, i * step, None, 0.0, zero), load(grad, i * step, None, 0.0, zero)
    store(numbers, i * step, None, p)
    store(numbers, (TILES + i) * step, None, g)
    return run + widened(summed(p, g, log))


@inlined
def write_kept(numbers: Any, i: int, total: Any, to: Any, log: Any, zero: Any) -> None:
    """Write tile i of a strip."""
    step = lane_count(zero)
    p = load(numbers, i * step, None, 0.0, zero)
    g = load(numbers, (TILES + i) * step, None, 0.0, zero)
    store(to, i * step, None, closed(p, g, total, log, zero))


@once
def product_of_strip(p: Any, row: int, memory: Any, log: Any, stored: Any, zero: Any) -> None:
    """Rows that lie side by side in all arrays.

    They are kept, since classes that lie a power of two apart drive one another from the cache.
    """
    of_first, of_grad, of_out = row_of(p.first, row), row_of(p.grad, row), row_of(p.out, row)
    classes, strip = p.classes, TILES * lane_count(zero)
    line_numbers = 64 // item_size(p.first.kind)
    nothing = splat_wide(0.0, zero)
    sa = sb = sc = sd = (nothing, nothing)
    for begin in range(0, classes, _RUN):
        a = b = c = d = nothing
        for k in range(begin, min(begin + _RUN, classes)):
            first = pointer(of_first + k * p.first.class_stride, 0, stored)
            grad = pointer(of_grad + k * p.grad.class_stride, 0, stored)
            for line in range(strip, 2 * strip, line_numbers):
                prefetch(first, line, 0)
                prefetch(grad, line, 0)
            numbers = pointer(memory, 2 * k * strip, zero)
            a = kept(first, grad, numbers, 0, a, log, zero)
            b = kept(first, grad, numbers, 1, b, log, zero)
            c = kept(first, grad, numbers, 2, c, log, zero)
            d = kept(first, grad, numbers, 3, d, log, zero)
        sa, sb = with_number(sa, a), with_number(sb, b)
        sc, sd = with_number(sc, c), with_number(sd, d)
    a, b = narrowed(value_of_each(sa), zero), narrowed(value_of_each(sb), zero)
    c, d = narrowed(value_of_each(sc), zero), narrowed(value_of_each(sd), zero)
    for k in range(classes):
        numbers = pointer(memory, 2 * k * strip, zero)
        to = pointer(of_out + k * p.out.class_stride, 0, stored)
        write_kept(numbers, 0, a, to, log, zero)
        write_kept(numbers, 1, b, to, log, zero)
        write_kept(numbers, 2, c, to, log, zero)
        write_kept(numbers, 3, d, to, log, zero)


@once
def tiles_chunk(
    p: Any, begin: int, end: int, scratch: int, log: Any, stored: Any, zero: Any
) -> None:
    """Rows from `begin` up to `end`."""
    rows, classes = lane_count(zero), p.classes
    strip, row = TILES * rows, begin
    first = pointer(scratch, 0, zero)
    grad = pointer(first, rows * classes, zero)
    staged = pointer(grad, rows * classes, zero)
    while row < end:
        if (
            strip <= end - row
            and lie_in_lanes(p.first, row, strip)
            and lie_in_lanes(p.grad, row, strip)
            and lie_in_lanes(p.out, row, strip)
        ):
            product_of_strip(p, row, first, log, stored, zero)
            row += strip
        else:
            count = min(rows, end - row)
            load_tile(p.first, row, count, classes, first, staged, stored, zero)
            load_tile(p.grad, row, count, classes, grad, staged, stored, zero)
            ahead = row + 2 * rows if row + 2 * rows < end else row
            total = tile_sum(p, first, grad, ahead, log, zero)
            close_tile(p.out, row, count, classes, first, grad, total, staged, log, stored, zero)
            row += count
