"""The Jacobian products with a row in each lane: few classes, or classes that do not lie close.

The C++ twin is src_cython/jacobian_tile.hpp. In a tile class k of all its rows begins at
`k * lane_count`, in the compute dtype.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastxent.backends.contract import TILE_CLASSES
from fastxent.backends.numba_cpu.arithmetic import narrowed, splat_wide, where_equal, widened
from fastxent.backends.numba_cpu.jacobian_numbers import peek, poke, read, write
from fastxent.backends.numba_cpu.jacobian_rows import (
    ALIGNED,
    CALL_NUMBERS,
    CLASS_STRIDE,
    CLASSES,
    DATA,
    DIMS,
    ROWS_NUMBERS,
    SIZES,
    STRIDES,
    closed,
    offsets_of,
    row_address,
    summed,
)
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
from fastxent.backends.numba_cpu.long_sum import with_number
from fastxent.backends.numba_cpu.transpose import gather, scatter_classes

__all__ = ["TILES", "tiles_chunk"]

# Classes that are added up in one go: as many additions as a chain of row.py has in float64.
_RUN = 32
# Tiles that are taken together where positions lie close.
TILES = 4
_NUMBERS = 16 * TILE_CLASSES

# How the rows of a tile lie in an array.
_POSITIONS, _CLASSES, _ANY = range(3)


@inlined
def lanes_of_sum(pair: Any, zero: Any) -> Any:
    """As value_of, lane by lane: the rest of an infinite sum is NaN."""
    total, rest = pair
    return narrowed(where_equal(total - total, splat_wide(0.0, zero), total + rest, total), zero)


@inlined
def way_of(array: Any, offsets: Any, count: int, classes: int, size: int, zero: Any) -> int:
    """How these rows lie."""
    if array[ALIGNED] == 0:
        return _ANY
    if array[CLASS_STRIDE] == size and classes <= TILE_CLASSES:
        return _CLASSES
    if count < lane_count(zero):
        return _ANY
    for r in range(1, count):
        if offsets[r] != offsets[0] + r * size:
            return _ANY
    return _POSITIONS


@inlined
def row_of_tile(row: Any, numbers: Any, classes: int, to_row: Any, zero: Any) -> None:
    """Convert a row that lies close: from numbers, or to them where `to_row` is None."""
    step = lane_count(zero)
    whole = classes - classes % step
    for k in range(0, whole, step):
        if to_row is None:
            store(numbers, k, None, read(row, k, None, zero))
        else:
            write(row, k, None, load(numbers, k, None, 0.0, zero))
    if whole < classes:
        some = classes - whole
        if to_row is None:
            store(numbers, whole, some, read(row, whole, some, zero))
        else:
            write(row, whole, some, load(numbers, whole, some, 0.0, zero))


@once
def load_tile(
    array: Any, row: int, count: int, classes: int, numbers: Any, half: Any, stored: Any, zero: Any
) -> None:
    """Rows of an array into a tile; lanes without a row hold anything."""
    rows, size = lane_count(zero), item_bytes(stored)
    offsets, places = stack(16, np.int64(0)), stack(16, np.int64(0))
    offsets_of(array, row, count, offsets)
    way, data = way_of(array, offsets, count, classes, size, zero), array[DATA]
    if way == _CLASSES:
        wide = stack(_NUMBERS, zero)
        for r in range(rows):
            places[r] = data + offsets[r if r < count else 0]
            if half is not None:
                own = pointer(wide, r * TILE_CLASSES, zero)
                row_of_tile(pointer(places[r], 0, stored), own, classes, None, zero)
                places[r] = address_of(own)
        gather(places, zero, classes, numbers, zero)
        return
    for k in range(classes):
        if way == _POSITIONS:
            lane = read(pointer(data + offsets[0], 0, stored), 0, None, zero)
        else:
            some = stack(16, stored)
            for r in range(count):
                some[r] = peek(data + offsets[r], stored)
            lane = read(some, 0, None, zero)
        store(numbers, k * rows, None, lane)
        data += array[CLASS_STRIDE]


@inlined
def class_of(first: Any, grad: Any, k: int, total: Any, log: Any, zero: Any) -> Any:
    """What becomes of class k."""
    p = load(first, k * lane_count(zero), None, 0.0, zero)
    g = load(grad, k * lane_count(zero), None, 0.0, zero)
    return closed(p, g, total, log, zero)


@inlined
def scatter(
    places: Any, classes: int, first: Any, grad: Any, total: Any, log: Any, zero: Any
) -> None:
    """Write the rows at these addresses."""
    fours = classes & ~3
    for k in range(0, fours, 4):
        a = class_of(first, grad, k, total, log, zero)
        b = class_of(first, grad, k + 1, total, log, zero)
        c = class_of(first, grad, k + 2, total, log, zero)
        d = class_of(first, grad, k + 3, total, log, zero)
        scatter_classes(places, k, 4, a, b, c, d)
    if classes & 2:
        a = class_of(first, grad, fours, total, log, zero)
        b = class_of(first, grad, fours + 1, total, log, zero)
        scatter_classes(places, fours, 2, a, b, b, b)
    if classes & 1:
        a = class_of(first, grad, classes - 1, total, log, zero)
        scatter_classes(places, classes - 1, 1, a, a, a, a)


@once
def close_tile(
    array: Any, row: int, count: int, classes: int, first: Any, grad: Any, total: Any, log: Any,
    half: Any, stored: Any, zero: Any,
) -> None:  # fmt: skip
    """Write a tile's rows to an array."""
    rows, size = lane_count(zero), item_bytes(stored)
    offsets, places = stack(16, np.int64(0)), stack(16, np.int64(0))
    offsets_of(array, row, count, offsets)
    way, data = way_of(array, offsets, count, classes, size, zero), array[DATA]
    if way == _CLASSES:
        wide = stack(_NUMBERS, zero)
        for r in range(rows):
            if half is None and r < count:
                places[r] = data + offsets[r]
            else:
                places[r] = address_of(pointer(wide, r * TILE_CLASSES, zero))
        scatter(places, classes, first, grad, total, log, zero)
        if half is not None:
            for r in range(count):
                own = pointer(wide, r * TILE_CLASSES, zero)
                to = pointer(data + offsets[r], 0, stored)
                row_of_tile(to, own, classes, 0, zero)
        return
    for k in range(classes):
        lane = class_of(first, grad, k, total, log, zero)
        if way == _POSITIONS:
            write(pointer(data + offsets[0], 0, stored), 0, None, lane)
        else:
            some = stack(16, stored)
            write(some, 0, None, lane)
            for r in range(count):
                poke(data + offsets[r], some[r])
        data += array[CLASS_STRIDE]


@inlined
def item_bytes(stored: Any) -> Any:
    """Bytes of a stored number."""
    pair = stack(2, stored)
    return address_of(pointer(pair, 1, stored)) - address_of(pair)


@once
def tile_sum(
    first: Any, grad: Any, classes: int, ahead: Any, next_row: int, log: Any, zero: Any
) -> Any:
    """Sums of a tile's rows; lines of a later tile are fetched, as in tile_forward."""
    step, every = lane_count(zero), (splat_wide(0.0, zero), splat_wide(0.0, zero))
    to_first = pointer(row_address(ahead, next_row), 0, np.uint8(0))
    to_grad = pointer(
        row_address(pointer(ahead, ROWS_NUMBERS, np.int64(0)), next_row), 0, np.uint8(0)
    )
    to_out = pointer(
        row_address(pointer(ahead, 2 * ROWS_NUMBERS, np.int64(0)), next_row), 0, np.uint8(0)
    )
    for begin in range(0, classes, _RUN):
        run = splat_wide(0.0, zero)
        for k in range(begin, min(begin + _RUN, classes)):
            prefetch(to_first, 64 * k, 0)
            prefetch(to_grad, 64 * k, 0)
            prefetch(to_out, 64 * k, 1)
            p = load(first, k * step, None, 0.0, zero)
            g = load(grad, k * step, None, 0.0, zero)
            run = run + widened(summed(p, g, log))
        every = with_number(every, run)
    return lanes_of_sum(every, zero)


@inlined
def kept(first: Any, grad: Any, numbers: Any, i: int, run: Any, log: Any, zero: Any) -> Any:
    """Tile i of a strip: its numbers of one class, kept and added to the sum."""
    step = lane_count(zero)
    p, g = read(first, i * step, None, zero), read(grad, i * step, None, zero)
    store(numbers, i * step, None, p)
    store(numbers, (TILES + i) * step, None, g)
    return run + widened(summed(p, g, log))


@inlined
def write_kept(numbers: Any, i: int, total: Any, to: Any, log: Any, zero: Any) -> None:
    """Write tile i of a strip."""
    step = lane_count(zero)
    p = load(numbers, i * step, None, 0.0, zero)
    g = load(numbers, (TILES + i) * step, None, 0.0, zero)
    write(to, i * step, None, closed(p, g, total, log, zero))


@once
def product_of_strip(call: Any, row: int, memory: Any, log: Any, stored: Any, zero: Any) -> None:
    """Positions that lie close in all arrays.

    They are kept, since classes that lie a power of two apart drive one another from the cache.
    """
    arrays = pointer(call, CALL_NUMBERS, np.int64(0))
    grads = pointer(arrays, ROWS_NUMBERS, np.int64(0))
    outs = pointer(arrays, 2 * ROWS_NUMBERS, np.int64(0))
    of_first, of_grad, of_out = (
        row_address(arrays, row),
        row_address(grads, row),
        row_address(outs, row),
    )
    classes, strip = call[CLASSES], TILES * lane_count(zero)
    size = item_bytes(stored)
    nothing = splat_wide(0.0, zero)
    sa = sb = sc = sd = (nothing, nothing)
    for begin in range(0, classes, _RUN):
        a = b = c = d = nothing
        for k in range(begin, min(begin + _RUN, classes)):
            first = pointer(of_first + k * arrays[CLASS_STRIDE], 0, stored)
            grad = pointer(of_grad + k * grads[CLASS_STRIDE], 0, stored)
            for line in range(strip, 2 * strip, 64 // size):
                prefetch(first, line, 0)
                prefetch(grad, line, 0)
            numbers = pointer(memory, 2 * k * strip, zero)
            a = kept(first, grad, numbers, 0, a, log, zero)
            b = kept(first, grad, numbers, 1, b, log, zero)
            c = kept(first, grad, numbers, 2, c, log, zero)
            d = kept(first, grad, numbers, 3, d, log, zero)
        sa, sb = with_number(sa, a), with_number(sb, b)
        sc, sd = with_number(sc, c), with_number(sd, d)
    a, b = lanes_of_sum(sa, zero), lanes_of_sum(sb, zero)
    c, d = lanes_of_sum(sc, zero), lanes_of_sum(sd, zero)
    for k in range(classes):
        numbers = pointer(memory, 2 * k * strip, zero)
        to = pointer(of_out + k * outs[CLASS_STRIDE], 0, stored)
        write_kept(numbers, 0, a, to, log, zero)
        write_kept(numbers, 1, b, to, log, zero)
        write_kept(numbers, 2, c, to, log, zero)
        write_kept(numbers, 3, d, to, log, zero)


@inlined
def are_close(array: Any, row: int, count: int, size: int) -> Any:
    """Whether so many rows lie close, class by class."""
    last = array[DIMS] - 1
    place = row if last == 0 else row % array[SIZES + last]
    near = array[ALIGNED] != 0 and array[STRIDES + last] == size
    return near and place + count <= array[SIZES + last]


@once
def tiles_chunk(
    call: Any, begin: int, end: int, scratch: int, log: Any, half: Any, stored: Any, zero: Any
) -> None:
    """Rows from `begin` up to `end`."""
    arrays = pointer(call, CALL_NUMBERS, np.int64(0))
    grads = pointer(arrays, ROWS_NUMBERS, np.int64(0))
    outs = pointer(arrays, 2 * ROWS_NUMBERS, np.int64(0))
    rows, size, classes = lane_count(zero), item_bytes(stored), call[CLASSES]
    strip, row = TILES * rows, begin
    first = pointer(scratch, 0, zero)
    grad = pointer(first, rows * classes, zero)
    while row < end:
        if (
            strip <= end - row
            and are_close(arrays, row, strip, size)
            and are_close(grads, row, strip, size)
            and are_close(outs, row, strip, size)
        ):
            product_of_strip(call, row, first, log, stored, zero)
            row += strip
        else:
            count = min(rows, end - row)
            load_tile(arrays, row, count, classes, first, half, stored, zero)
            load_tile(grads, row, count, classes, grad, half, stored, zero)
            ahead = row + 2 * rows if row + 2 * rows < end else row
            total = tile_sum(first, grad, classes, arrays, ahead, log, zero)
            close_tile(outs, row, count, classes, first, grad, total, log, half, stored, zero)
            row += count
