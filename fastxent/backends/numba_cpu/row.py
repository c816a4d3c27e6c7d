"""The arithmetic of one row, for every kind of target; the C++ twin is src_cython/row.hpp.

A row is taken in blocks. What a block hands up are seven numbers in memory, at BLOCK_SUMS times its
number: MAX (-inf: all masked), SUM of exp(z - m), MASS, the sum of t, DOT, that of t * (z - m),
SPREAD, that of exp(z - m) * (z - m), FACTOR, exp(m - the row's m), once that is known, and ARGMAX,
the first class that holds m. SPREAD and ARGMAX are there in prepared kernels only, for who asks.
"""

# ruff: noqa: SIM102 (Numba leaves out what stands behind a bare `is not None`: see kernels.py)

from __future__ import annotations

from typing import Any, NamedTuple

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
from fastxent.backends.numba_cpu.elementary import at_least_lowest, exp_of_negative
from fastxent.backends.numba_cpu.jit import inlined, once
from fastxent.backends.numba_cpu.lanes import (
    get,
    lane_count,
    load,
    pointer,
    prefetch,
    store,
)
from fastxent.backends.numba_cpu.long_sum import value_of, with_number
from fastxent.backends.numba_cpu.schedule import BLOCK_SUMS
from fastxent.backends.numba_cpu.target import mass_at

__all__ = [
    "ARGMAX",
    "FACTOR",
    "SPREAD",
    "block_close",
    "block_forward",
    "block_length",
    "block_log_proba",
    "block_max",
    "block_spread",
    "first_of",
    "grad_of",
    "merge",
]

MAX, SUM, MASS, DOT, SPREAD, FACTOR, ARGMAX = range(BLOCK_SUMS)


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


class Ahead(NamedTuple):
    """What is read and written after a block: addresses, and bytes from class to class."""

    source: Any
    source_size: Any
    goal: Any
    goal_size: Any


@inlined
def exponentials(
    z: Any, k: int, some: Any, shift: Any, exps: Any, ahead: Any, prepared: Any, zero: Any
) -> Any:
    """Store exp(z - shift); give z - shift and its exp.

    Logits that were prepared have been read in a burst, and memory would wait while their
    exponentials are computed: a line of what comes next is fetched with each line of them.
    """
    if prepared is not None:
        prefetch(pointer(ahead.source + k * ahead.source_size, 0, np.uint8(0)), 0, 0)
        prefetch(pointer(ahead.goal + k * ahead.goal_size, 0, np.uint8(0)), 0, 1)
    shifted = load(z, k, some, -np.inf, zero) - shift
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
    z: Any, top: float, n: int, target: Any, exps: Any, sums: Any, ahead: Any, massed: Any,
    prepared: Any, zero: Any,
) -> None:  # fmt: skip
    """Sums of n classes with this maximum, and their exponentials, which may go over z.

    Four chains of sums are shorter, which makes them more exact and lets them overlap. What is
    left over goes to the first one.
    """
    step = lane_count(zero)
    whole, fours = n - n % step, n - n % (4 * step)
    shift = splat(shift_of(top), zero)
    a = b = c = d = splat(0.0, zero)
    ma = mb = mc = md = da = db = dc = dd = splat(0.0, zero)
    for k in range(0, fours, 4 * step):
        shifted, e = exponentials(z, k, None, shift, exps, ahead, prepared, zero)
        a = a + e
        if massed is not None:
            ma, da = with_mass(target, k, None, shifted, ma, da, zero)
        shifted, e = exponentials(z, k + step, None, shift, exps, ahead, prepared, zero)
        b = b + e
        if massed is not None:
            mb, db = with_mass(target, k + step, None, shifted, mb, db, zero)
        shifted, e = exponentials(z, k + 2 * step, None, shift, exps, ahead, prepared, zero)
        c = c + e
        if massed is not None:
            mc, dc = with_mass(target, k + 2 * step, None, shifted, mc, dc, zero)
        shifted, e = exponentials(z, k + 3 * step, None, shift, exps, ahead, prepared, zero)
        d = d + e
        if massed is not None:
            md, dd = with_mass(target, k + 3 * step, None, shifted, md, dd, zero)
    for k in range(fours, whole, step):
        shifted, e = exponentials(z, k, None, shift, exps, ahead, prepared, zero)
        a = a + e
        if massed is not None:
            ma, da = with_mass(target, k, None, shifted, ma, da, zero)
    if whole < n:
        some = n - whole
        shifted, e = exponentials(z, whole, some, shift, exps, ahead, prepared, zero)
        a = a + e
        if massed is not None:
            ma, da = with_mass(target, whole, some, shifted, ma, da, zero)
    sums[MAX] = top
    sums[SUM] = sum_lanes((a + b) + (c + d))
    sums[MASS] = sum_lanes((ma + mb) + (mc + md))
    sums[DOT] = sum_lanes((da + db) + (dc + dd))
    sums[FACTOR] = 1.0


@inlined
def spread_at(z: Any, exps: Any, k: int, some: Any, shift: Any, spread: Any, zero: Any) -> Any:
    """Sum of exp(z - m) * (z - m), with the classes from k on; a masked one adds 0."""
    shifted = at_least_lowest(load(z, k, some, 0.0, zero) - shift)
    return fma(load(exps, k, some, 0.0, zero), shifted, spread)


@once
def block_spread(z: Any, top: float, n: int, exps: Any, zero: Any) -> Any:
    """Sum of exp(z - m) * (z - m)."""
    step = lane_count(zero)
    whole, fours = n - n % step, n - n % (4 * step)
    shift = splat(shift_of(top), zero)
    a = b = c = d = splat(0.0, zero)
    for k in range(0, fours, 4 * step):
        a = spread_at(z, exps, k, None, shift, a, zero)
        b = spread_at(z, exps, k + step, None, shift, b, zero)
        c = spread_at(z, exps, k + 2 * step, None, shift, c, zero)
        d = spread_at(z, exps, k + 3 * step, None, shift, d, zero)
    for k in range(fours, whole, step):
        a = spread_at(z, exps, k, None, shift, a, zero)
    if whole < n:
        a = spread_at(z, exps, whole, n - whole, shift, a, zero)
    return sum_lanes((a + b) + (c + d))


@once
def first_of(z: Any, n: int, top: float) -> Any:
    """The first class of n that holds the maximum: 64 at a time are compared with it."""
    for begin in range(0, n, 64):
        end = min(begin + 64, n)
        found = 0
        for k in range(begin, end):
            found |= np.float64(get(z, k)) == top
        if found != 0:
            for k in range(begin, end):
                if np.float64(get(z, k)) == top:
                    return k
    return 0  # nothing but NaN


@inlined
def merge(blocks: Any, count: int, prepared: Any) -> tuple[Any, Any, Any, Any, Any, Any]:
    """From the blocks' sums, in block order, to the row's.

    They are m, s, sum t, sum t * (z - m), sum exp(z - m) * (z - m), and the first class that holds
    m. Each block learns its factor, exactly 1 for the one that holds the maximum.
    """
    if count == 1:
        spread, argmax = 0.0, 0.0
        if prepared is not None:
            spread, argmax = blocks[SPREAD], blocks[ARGMAX]
        return blocks[MAX], blocks[SUM], blocks[MASS], blocks[DOT], spread, argmax
    row_max, zeros, argmax = -np.inf, (0.0, 0.0), 0.0
    total = mass = dot = spreads = zeros
    if prepared is not None:
        argmax = blocks[ARGMAX]
    for number in range(count):
        block = pointer(blocks, BLOCK_SUMS * number, 0.0)
        if block[MAX] > row_max:
            row_max = block[MAX]
            if prepared is not None:
                argmax = block[ARGMAX]
    for number in range(count):
        block = pointer(blocks, BLOCK_SUMS * number, 0.0)
        if block[MAX] != row_max:
            block[FACTOR] = exp_of_negative(block[MAX] - row_max)
        down = shift_of(block[MAX]) - row_max
        # a masked block's sum is 0, or NaN; where all are masked the factor stays 1
        total = with_number(total, block[SUM] * block[FACTOR])
        mass = with_number(mass, block[MASS])
        dot = with_number(dot, block[DOT] + block[MASS] * down)
        if prepared is not None:
            if block[FACTOR] != 0.0:
                more = (block[SPREAD] + block[SUM] * down) * block[FACTOR]
                spreads = with_number(spreads, more)
    return row_max, value_of(total), value_of(mass), value_of(dot), value_of(spreads), argmax


@inlined
def grad_of(exps: Any, share: Any, mass: Any, scale: Any) -> Any:
    """scale * (share * exps - t).

    Where t is 0 the scale goes into the one factor; where it is not, it comes last, so that the
    difference cancels exactly (C = 1: p = t = 1).
    """
    return fms(exps, share, mass) * scale


@inlined
def closed(
    exps: Any, k: int, some: Any, target: Any, factor: Any, scale: Any, massed: Any, zero: Any
) -> Any:
    """Gradient of the classes from k on."""
    e = load(exps, k, some, 0.0, zero)
    if massed is not None:
        return grad_of(e, factor, mass_at(target, k, some, zero), scale)
    return e * factor


@inlined
def block_close(
    exps: Any, n: int, target: Any, scale: float, factor: float, massed: Any, zero: Any
) -> None:
    """exps becomes scale * (factor * exps - t), or factor * exps where there is no such t."""
    step = lane_count(zero)
    scales, factors = splat(scale, zero), splat(factor, zero)
    whole = n - n % step
    for k in range(0, whole, step):
        store(exps, k, None, closed(exps, k, None, target, factors, scales, massed, zero))
    if whole < n:
        some = n - whole
        last = closed(exps, whole, some, target, factors, scales, massed, zero)
        store(exps, whole, some, last)


@once
def block_log_proba(z: Any, n: int, top: float, log_sum: float, to: Any, zero: Any) -> None:
    """(z - m) - log s."""
    step = lane_count(zero)
    tops, logs = splat(top, zero), splat(log_sum, zero)
    whole = n - n % step
    for k in range(0, whole, step):
        store(to, k, None, load(z, k, None, 0.0, zero) - tops - logs)
    if whole < n:
        some = n - whole
        store(to, whole, some, load(z, whole, some, 0.0, zero) - tops - logs)
