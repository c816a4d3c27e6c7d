"""The Jacobian products of rows of many classes that lie close, one row after the other.

The C++ twin is src_cython/jacobian_rows.hpp. A call `p` is the record JACOBIAN. The dummy `log` is
None for the softmax and a number for its logarithm, `stored` is a number as the arrays hold it,
`zero` one of the compute dtype.
"""

from __future__ import annotations

from typing import Any

from fastxent.backends.contract import BLOCK
from fastxent.backends.numba_cpu.arithmetic import emitted, fma, splat, sum_lanes
from fastxent.backends.numba_cpu.elementary import exp_of_negative
from fastxent.backends.numba_cpu.jit import inlined, once
from fastxent.backends.numba_cpu.lanes import lane_count, load, pointer, store
from fastxent.backends.numba_cpu.long_sum import value_of, with_number
from fastxent.backends.numba_cpu.matrix import row_of
from fastxent.backends.numba_cpu.row import block_length
from fastxent.backends.numba_cpu.vector import Vector, constant

__all__ = [
    "close_piece",
    "closed",
    "rows_chunk",
    "sum_piece",
    "summed",
]


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
def with_sum(total: Any, first: Any, grad: Any, k: int, some: Any, log: Any, zero: Any) -> Any:
    """A sum of lanes with the classes from k on."""
    g = load(grad, k, some, 0.0, zero)
    if log is None:
        return fma(load(first, k, some, 0.0, zero), g, total)
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
        p, g = load(first, k, None, 0.0, zero), load(grad, k, None, 0.0, zero)
        store(out, k, None, closed(p, g, totals, log, zero))
    if whole < n:
        some = n - whole
        p, g = load(first, whole, some, 0.0, zero), load(grad, whole, some, 0.0, zero)
        store(out, whole, some, closed(p, g, totals, log, zero))


@inlined
def merged(sums: Any, count: int) -> Any:
    """The blocks' sums, added up in their order."""
    every = 0.0, 0.0
    for number in range(count):
        every = with_number(every, sums[number])
    return value_of(every)


@inlined
def sum_blocks(
    p: Any, row: int, first: int, last: int, sums: Any, log: Any, stored: Any, zero: Any
) -> None:
    """Sums of the blocks of a row from `first` up to `last`."""
    of_first, of_grad = row_of(p.first, row), row_of(p.grad, row)
    for number in range(first, last):
        begin = number * BLOCK
        sums[number] = block_sum(
            pointer(of_first, begin, stored),
            pointer(of_grad, begin, stored),
            block_length(begin, p.classes),
            log,
            zero,
        )


@inlined
def close_blocks(
    p: Any, row: int, first: int, last: int, total: float, log: Any, stored: Any, zero: Any
) -> None:
    """Write the blocks of a row from `first` up to `last`."""
    begin, end = first * BLOCK, min(last * BLOCK, p.classes)
    close_classes(
        pointer(row_of(p.first, row), begin, stored),
        pointer(row_of(p.grad, row), begin, stored),
        pointer(row_of(p.out, row), begin, stored),
        total,
        end - begin,
        log,
        zero,
    )


@once
def rows_chunk(
    p: Any, begin: int, end: int, scratch: int, log: Any, stored: Any, zero: Any
) -> None:
    """Rows from `begin` up to `end`."""
    sums = pointer(scratch, 0, 0.0)
    for row in range(begin, end):
        sum_blocks(p, row, 0, p.blocks, sums, log, stored, zero)
        total = merged(sums, p.blocks)
        close_blocks(p, row, 0, p.blocks, total, log, stored, zero)


@inlined
def piece_of(p: Any, item: int) -> Any:
    """Row of a piece, and its first and last block."""
    row, piece = item // p.pieces, item % p.pieces
    blocks = (p.blocks + p.pieces - 1) // p.pieces
    first = min(piece * blocks, p.blocks)
    return row, first, min(first + blocks, p.blocks)


@once
def sum_piece(p: Any, item: int, log: Any, stored: Any, zero: Any) -> None:
    """Sums of a piece of a row, where all workers find them."""
    row, first, last = piece_of(p, item)
    sums = pointer(p.scratch, row * p.blocks, 0.0)
    sum_blocks(p, row, first, last, sums, log, stored, zero)


@once
def close_piece(p: Any, item: int, log: Any, stored: Any, zero: Any) -> None:
    """Write a piece of a row, whose sums are all known."""
    row, first, last = piece_of(p, item)
    if first < last:
        total = merged(pointer(p.scratch, row * p.blocks, 0.0), p.blocks)
        close_blocks(p, row, first, last, total, log, stored, zero)
