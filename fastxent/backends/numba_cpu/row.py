"""The arithmetic of one row, for every kind of target; the C++ twin is src_cython/row.hpp.

A row is taken in blocks. What a block hands up are five numbers in memory, at BLOCK_SUMS times its
number: MAX (-inf: all masked), SUM of exp(z - m), MASS, the sum of t, DOT, that of t * (z - m), and
FACTOR, exp(m - the row's m), once that is known.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastxent.backends.contract import BLOCK
from fastxent.backends.numba_cpu.arithmetic import (
    fma,
    fms,
    largest,
    maximum,
    splat,
    sum_lanes,
    where_nonzero,
)
from fastxent.backends.numba_cpu.elementary import exp_of_negative
from fastxent.backends.numba_cpu.jit import inlined, once
from fastxent.backends.numba_cpu.lanes import lane_count, load, pointer, stack, store
from fastxent.backends.numba_cpu.long_sum import value_of, with_number
from fastxent.backends.numba_cpu.target import mass_at

__all__ = ["BLOCK_SUMS", "FACTOR", "blocks_close", "blocks_forward", "grad_of", "merge"]

MAX, SUM, MASS, DOT, FACTOR = range(5)
BLOCK_SUMS = 5


@inlined
def block_length(begin: int, classes: int) -> int:
    """Classes of the block that begins here."""
    return min(classes - begin, BLOCK)


@inlined
def shift_of(block_max: float) -> float:
    """What logits are taken relative to: -inf minus -inf would be NaN where all are masked."""
    return 0.0 if block_max == -np.inf else block_max


@inlined
def block_max(logits: Any, n: int, zero: Any) -> Any:
    """Largest of n logits."""
    step = lane_count(zero)
    whole, fours = n - n % step, n - n % (4 * step)
    a = b = c = d = splat(-np.inf, zero)
    # the order of the operands lets a NaN pass by; the sum will show it
    for k in range(0, fours, 4 * step):
        a = maximum(load(logits, k, None, 0.0, zero), a)
        b = maximum(load(logits, k + step, None, 0.0, zero), b)
        c = maximum(load(logits, k + 2 * step, None, 0.0, zero), c)
        d = maximum(load(logits, k + 3 * step, None, 0.0, zero), d)
    for k in range(fours, whole, step):
        a = maximum(load(logits, k, None, 0.0, zero), a)
    if whole < n:
        a = maximum(load(logits, whole, n - whole, -np.inf, zero), a)
    return np.float64(largest(maximum(maximum(a, b), maximum(c, d))))


@inlined
def exponentials(logits: Any, k: int, some: Any, shift: Any, exps: Any, zero: Any) -> Any:
    """Store exp(z - shift); give z - shift and its exp."""
    shifted = load(logits, k, some, -np.inf, zero) - shift
    e = exp_of_negative(shifted)
    store(exps, k, some, e)
    return shifted, e


@inlined
def with_mass(
    target: Any, k: int, some: Any, shifted: Any, mass: Any, dot: Any, zero: Any
) -> tuple[Any, Any]:
    """Sums of t and of t * (z - shift), with those of the classes from k on."""
    t = mass_at(target, k, some, zero)
    # no mass, no loss: 0 * -inf must not become NaN
    return mass + t, where_nonzero(t, fma(t, shifted, dot), dot)


@inlined
def block_forward(
    logits: Any, begin: int, n: int, target: Any, exps: Any, sums: Any, zero: Any
) -> None:
    """Sums of n classes from `begin` on; `logits` and `exps` point at the block.

    Four chains of sums are shorter, which makes them more exact and lets them overlap. What is
    left over goes to the first one.
    """
    step = lane_count(zero)
    whole, fours = n - n % step, n - n % (4 * step)
    sums[MAX] = block_max(logits, n, zero)
    shift = splat(shift_of(sums[MAX]), zero)
    a = b = c = d = splat(0.0, zero)
    ma = mb = mc = md = da = db = dc = dd = splat(0.0, zero)
    for k in range(0, fours, 4 * step):
        shifted, e = exponentials(logits, k, None, shift, exps, zero)
        a = a + e
        if target is not None:
            ma, da = with_mass(target, begin + k, None, shifted, ma, da, zero)
        shifted, e = exponentials(logits, k + step, None, shift, exps, zero)
        b = b + e
        if target is not None:
            mb, db = with_mass(target, begin + k + step, None, shifted, mb, db, zero)
        shifted, e = exponentials(logits, k + 2 * step, None, shift, exps, zero)
        c = c + e
        if target is not None:
            mc, dc = with_mass(target, begin + k + 2 * step, None, shifted, mc, dc, zero)
        shifted, e = exponentials(logits, k + 3 * step, None, shift, exps, zero)
        d = d + e
        if target is not None:
            md, dd = with_mass(target, begin + k + 3 * step, None, shifted, md, dd, zero)
    for k in range(fours, whole, step):
        shifted, e = exponentials(logits, k, None, shift, exps, zero)
        a = a + e
        if target is not None:
            ma, da = with_mass(target, begin + k, None, shifted, ma, da, zero)
    if whole < n:
        some = n - whole
        shifted, e = exponentials(logits, whole, some, shift, exps, zero)
        a = a + e
        if target is not None:
            ma, da = with_mass(target, begin + whole, some, shifted, ma, da, zero)
    sums[SUM] = sum_lanes((a + b) + (c + d))
    sums[MASS] = sum_lanes((ma + mb) + (mc + md))
    sums[DOT] = sum_lanes((da + db) + (dc + dd))
    sums[FACTOR] = 1.0


@once
def blocks_forward(
    logits: Any, classes: int, target: Any, exps: int, blocks: Any, first: int, last: int, zero: Any
) -> None:
    """Blocks of a row from `first` up to `last`: a row may be shared out among threads.

    The exponentials go to the address `exps`; 0 means that nobody reads them.
    """
    unread = stack(BLOCK, zero)
    for number in range(first, last):
        begin = number * BLOCK
        block_forward(
            pointer(logits, begin, zero),
            begin,
            block_length(begin, classes),
            target,
            pointer(exps, begin, zero) if exps != 0 else unread,
            pointer(blocks, BLOCK_SUMS * number, 0.0),
            zero,
        )


@inlined
def merge(blocks: Any, count: int) -> tuple[Any, Any, Any, Any]:
    """From the blocks' sums, in block order, to the row's: m, s, sum t and sum t * (z - m).

    Each block learns its factor, exactly 1 for the one that holds the maximum.
    """
    if count == 1:
        return blocks[MAX], blocks[SUM], blocks[MASS], blocks[DOT]
    row_max, zeros = -np.inf, (0.0, 0.0)
    total = mass = dot = zeros
    for number in range(count):
        largest_there = blocks[BLOCK_SUMS * number + MAX]
        row_max = largest_there if largest_there > row_max else row_max
    for number in range(count):
        block = pointer(blocks, BLOCK_SUMS * number, 0.0)
        if block[MAX] != row_max:
            block[FACTOR] = exp_of_negative(block[MAX] - row_max)
        # a masked block's sum is 0, or NaN; where all are masked the factor stays 1
        total = with_number(total, block[SUM] * block[FACTOR])
        mass = with_number(mass, block[MASS])
        dot = with_number(dot, block[DOT] + block[MASS] * (shift_of(block[MAX]) - row_max))
    return row_max, value_of(total), value_of(mass), value_of(dot)


@inlined
def grad_of(exps: Any, share: Any, mass: Any, scale: Any) -> Any:
    """scale * (share * exps - t).

    Where t is 0 the scale goes into the one factor; where it is not, it comes last, so that the
    difference cancels exactly (C = 1: p = t = 1).
    """
    return fms(exps, share, mass) * scale


@inlined
def closed(exps: Any, k: int, some: Any, target: Any, factor: Any, scale: Any, zero: Any) -> Any:
    """Gradient of the classes from k on."""
    e = load(exps, k, some, 0.0, zero)
    if target is not None:
        return grad_of(e, factor, mass_at(target, k, some, zero), scale)
    return e * factor


@once
def blocks_close(
    exps: Any,
    classes: int,
    target: Any,
    scale: float,
    share: float,
    blocks: Any,
    first: int,
    last: int,
    zero: Any,
) -> None:
    """exps becomes scale * (share * exps - t), block by block; `share` is mass / s."""
    step = lane_count(zero)
    scales = splat(scale, zero)
    for number in range(first, last):
        begin = number * BLOCK
        end = begin + block_length(begin, classes)
        whole = end - (end - begin) % step
        of_block = share * blocks[BLOCK_SUMS * number + FACTOR]
        factor = splat(scale * of_block if target is None else of_block, zero)
        for k in range(begin, whole, step):
            store(exps, k, None, closed(exps, k, None, target, factor, scales, zero))
        if whole < end:
            some = end - whole
            store(exps, whole, some, closed(exps, whole, some, target, factor, scales, zero))
