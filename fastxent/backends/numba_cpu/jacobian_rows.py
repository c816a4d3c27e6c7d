"""The Jacobian products of rows of many classes that lie close, one row after the other.

The C++ twin is src_cython/jacobian_rows.hpp. A call is described by int64 numbers in memory: those
of the call, then those of each array. The dummy `log` is None for the softmax and a number for its
logarithm, `stored` is a number as the arrays hold it, `zero` one of the compute dtype.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastxent.backends.contract import BLOCK
from fastxent.backends.numba_cpu.arithmetic import emitted, fma, splat, sum_lanes
from fastxent.backends.numba_cpu.elementary import exp_of_negative
from fastxent.backends.numba_cpu.jacobian_numbers import read, write
from fastxent.backends.numba_cpu.jit import inlined, once
from fastxent.backends.numba_cpu.lanes import lane_count, pointer, stack
from fastxent.backends.numba_cpu.long_sum import value_of, with_number
from fastxent.backends.numba_cpu.row import block_length
from fastxent.backends.numba_cpu.vector import Vector, constant

__all__ = [
    "CALL_NUMBERS",
    "ROWS_NUMBERS",
    "close_piece",
    "closed",
    "offsets_of",
    "row_address",
    "rows_chunk",
    "sum_piece",
    "summed",
]

# Of a call.
ROWS, CLASSES, CHUNK_ROWS, CHUNKS, BLOCKS, PIECES = range(6)
WORKERS, COUNTER, SCRATCH, SCRATCH_BYTES = range(6, 10)
CALL_NUMBERS = 10

# Of an array: where it begins, leading dimensions, their four sizes and strides in bytes, the
# classes' stride, and whether all of them are multiples of the item's size.
DATA, DIMS, SIZES, STRIDES, CLASS_STRIDE, ALIGNED = 0, 1, 2, 6, 10, 11
ROWS_NUMBERS = 12


@emitted
def below_overflow(x: Vector) -> Vector:
    """At most where 2^k becomes infinite in `exp_of_negative`; NaN stays."""
    single = "float" in str(x.value.type)
    most = Vector(x.builder, constant(x.value.type, 89.0 if single else 710.0))
    less = x.builder.fcmp_ordered("<", most.value, x.value)
    return Vector(x.builder, x.builder.select(less, most.value, x.value))


@inlined
def summed(first: Any, grad: Any, log: Any) -> Any:
    """What of a class is added up."""
    if log is None:
        return first * grad
    return grad


@inlined
def closed(first: Any, grad: Any, total: Any, log: Any, zero: Any) -> Any:
    """What becomes of a class, once the sum is known."""
    if log is None:
        return first * (grad - total)
    return fma(exp_of_negative(below_overflow(first)), splat(0.0, zero) - total, grad)


@inlined
def offsets_of(array: Any, row: int, count: int, offsets: Any) -> None:
    """Bytes from the array's beginning to `count` rows from `row` on."""
    place = stack(4, np.int64(0))
    last = array[DIMS] - 1
    offset, rest = 0, row
    for d in range(last, 0, -1):
        place[d] = rest % array[SIZES + d]
        rest //= array[SIZES + d]
        offset += place[d] * array[STRIDES + d]
    offset += rest * array[STRIDES]
    for r in range(count):
        offsets[r] = offset
        offset += array[STRIDES + last]
        d = last
        while d > 0:
            place[d] += 1
            if place[d] < array[SIZES + d]:
                break
            offset += array[STRIDES + d - 1] - array[SIZES + d] * array[STRIDES + d]
            place[d] = 0
            d -= 1


@inlined
def row_address(array: Any, row: int) -> Any:
    """Address of a row."""
    offset = stack(1, np.int64(0))
    offsets_of(array, row, 1, offset)
    return array[DATA] + offset[0]


@inlined
def with_sum(total: Any, first: Any, grad: Any, k: int, some: Any, log: Any, zero: Any) -> Any:
    """A sum of lanes with the classes from k on."""
    g = read(grad, k, some, zero)
    if log is None:
        return fma(read(first, k, some, zero), g, total)
    return total + g


@once
def block_sum(first: Any, grad: Any, n: int, log: Any, zero: Any) -> Any:
    """Sum of n classes, in four chains as in block_forward."""
    step = lane_count(zero)
    whole, fours = n - n % step, n - n % (4 * step)
    a = b = c = d = splat(0.0, zero)
    for k in range(0, fours, 4 * step):
        a = with_sum(a, first, grad, k, None, log, zero)
        b = with_sum(b, first, grad, k + step, None, log, zero)
        c = with_sum(c, first, grad, k + 2 * step, None, log, zero)
        d = with_sum(d, first, grad, k + 3 * step, None, log, zero)
    for k in range(fours, whole, step):
        a = with_sum(a, first, grad, k, None, log, zero)
    if whole < n:
        a = with_sum(a, first, grad, whole, n - whole, log, zero)
    return sum_lanes((a + b) + (c + d))


@once
def close_classes(
    first: Any, grad: Any, out: Any, total: float, n: int, log: Any, zero: Any
) -> None:
    """Write n classes."""
    step = lane_count(zero)
    whole = n - n % step
    totals = splat(total, zero)
    for k in range(0, whole, step):
        p, g = read(first, k, None, zero), read(grad, k, None, zero)
        write(out, k, None, closed(p, g, totals, log, zero))
    if whole < n:
        some = n - whole
        p, g = read(first, whole, some, zero), read(grad, whole, some, zero)
        write(out, whole, some, closed(p, g, totals, log, zero))


@inlined
def merged(sums: Any, count: int) -> Any:
    """The blocks' sums, added up in their order."""
    every = 0.0, 0.0
    for number in range(count):
        every = with_number(every, sums[number])
    return value_of(every)


@inlined
def sum_blocks(
    call: Any, row: int, first: int, last: int, sums: Any, log: Any, stored: Any, zero: Any
) -> None:
    """Sums of the blocks of a row from `first` up to `last`."""
    arrays = pointer(call, CALL_NUMBERS, np.int64(0))
    of_first = row_address(arrays, row)
    of_grad = row_address(pointer(arrays, ROWS_NUMBERS, np.int64(0)), row)
    for number in range(first, last):
        begin = number * BLOCK
        sums[number] = block_sum(
            pointer(of_first, begin, stored),
            pointer(of_grad, begin, stored),
            block_length(begin, call[CLASSES]),
            log,
            zero,
        )


@inlined
def close_blocks(
    call: Any, row: int, first: int, last: int, total: float, log: Any, stored: Any, zero: Any
) -> None:
    """Write the blocks of a row from `first` up to `last`."""
    arrays = pointer(call, CALL_NUMBERS, np.int64(0))
    begin, end = first * BLOCK, min(last * BLOCK, call[CLASSES])
    close_classes(
        pointer(row_address(arrays, row), begin, stored),
        pointer(row_address(pointer(arrays, ROWS_NUMBERS, np.int64(0)), row), begin, stored),
        pointer(row_address(pointer(arrays, 2 * ROWS_NUMBERS, np.int64(0)), row), begin, stored),
        total,
        end - begin,
        log,
        zero,
    )


@once
def rows_chunk(
    call: Any, begin: int, end: int, scratch: int, log: Any, stored: Any, zero: Any
) -> None:
    """Rows from `begin` up to `end`."""
    sums = pointer(scratch, 0, 0.0)
    for row in range(begin, end):
        sum_blocks(call, row, 0, call[BLOCKS], sums, log, stored, zero)
        total = merged(sums, call[BLOCKS])
        close_blocks(call, row, 0, call[BLOCKS], total, log, stored, zero)


@inlined
def piece_of(call: Any, item: int) -> Any:
    """Row of a piece, and its first and last block."""
    row, piece = item // call[PIECES], item % call[PIECES]
    blocks = (call[BLOCKS] + call[PIECES] - 1) // call[PIECES]
    first = min(piece * blocks, call[BLOCKS])
    return row, first, min(first + blocks, call[BLOCKS])


@once
def sum_piece(call: Any, item: int, log: Any, stored: Any, zero: Any) -> None:
    """Sums of a piece of a row, where all workers find them."""
    row, first, last = piece_of(call, item)
    sums = pointer(call[SCRATCH], row * call[BLOCKS], 0.0)
    sum_blocks(call, row, first, last, sums, log, stored, zero)


@once
def close_piece(call: Any, item: int, log: Any, stored: Any, zero: Any) -> None:
    """Write a piece of a row, whose sums are all known."""
    row, first, last = piece_of(call, item)
    if first < last:
        total = merged(pointer(call[SCRATCH], row * call[BLOCKS], 0.0), call[BLOCKS])
        close_blocks(call, row, first, last, total, log, stored, zero)
