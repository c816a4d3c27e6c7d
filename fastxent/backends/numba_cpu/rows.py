"""The arithmetic of one row, for every kind of target; the C++ twin is src_cython/row.hpp.

Arrays are pointers, `exps` is where a row's exponentials go: over its gradient, or with a step of
0 always into the same block of scratch memory, where nobody reads them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba.extending import overload

from fastxent.backends.contract import BLOCK
from fastxent.backends.numba_cpu.exponential import exp_of_negative
from fastxent.backends.numba_cpu.jit import inlined
from fastxent.backends.numba_cpu.lanes import (
    fma,
    fms,
    lane_count,
    largest,
    load,
    maximum,
    pointer,
    splat,
    store,
    sum_lanes,
    where_nonzero,
)

__all__ = [
    "BlockSums",
    "OnBackground",
    "OnSoft",
    "row_close",
    "row_forward",
    "row_log_proba",
    "share_of",
]


class BlockSums(NamedTuple):
    """What a block of a row hands up, or the row: m (-inf: all masked), and sums relative to m."""

    max: float
    sum: float  # of exp(z - m)
    mass: float  # of t
    dot: float  # of t * (z - m)


# Where a target puts mass besides the label: nowhere (None), or one of two policies.


class OnBackground(NamedTuple):
    """The same mass for every row."""

    background: Any
    background_step: int


class OnSoft(NamedTuple):
    """Weighted probabilities, and the same mass for every row."""

    soft: Any
    gain: Any
    gain_step: int
    background: Any
    background_step: int


def mass_at(target: Any, k: int, some: int | None, zero: Any) -> Any:
    """t of the classes from k on."""
    raise NotImplementedError("compiled code only")


@overload(mass_at)
def _mass_at(target: Any, k: Any, some: Any, zero: Any) -> Any:
    if target.instance_class is OnBackground:

        def on_background(target: Any, k: Any, some: Any, zero: Any) -> Any:
            return load(target.background, k * target.background_step, some, 0.0, zero)

        return on_background

    def on_soft(target: Any, k: Any, some: Any, zero: Any) -> Any:
        soft = load(target.soft, k, some, 0.0, zero)
        gain = load(target.gain, k * target.gain_step, some, 0.0, zero)
        background = load(target.background, k * target.background_step, some, 0.0, zero)
        return fma(gain, soft, background)

    return on_soft


@inlined
def block_length(begin: int, classes: int) -> int:
    """Classes of the block that begins here."""
    return min(classes - begin, BLOCK)


@inlined
def shift_of(block_max: float) -> float:
    """What a block is taken relative to: -inf minus -inf would be NaN where all are masked."""
    return 0.0 if block_max == -np.inf else block_max


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
def block_forward(logits: Any, begin: int, n: int, target: Any, exps: Any, zero: Any) -> Any:
    """Sums of n classes from `begin` on; `logits` and `exps` point at the block."""
    lanes = lane_count(zero)
    whole = n - n % lanes
    top = splat(-np.inf, zero)
    # the order of the operands lets a NaN pass by; the sum will show it
    for k in range(0, whole, lanes):
        top = maximum(load(logits, k, None, 0.0, zero), top)
    if whole < n:
        top = maximum(load(logits, whole, n - whole, -np.inf, zero), top)
    block_max = np.float64(largest(top))

    shift = splat(shift_of(block_max), zero)
    total, mass, dot = splat(0.0, zero), splat(0.0, zero), splat(0.0, zero)
    for k in range(0, whole, lanes):
        shifted, e = exponentials(logits, k, None, shift, exps, zero)
        total = total + e
        if target is not None:
            mass, dot = with_mass(target, begin + k, None, shifted, mass, dot, zero)
    if whole < n:
        shifted, e = exponentials(logits, whole, n - whole, shift, exps, zero)
        total = total + e
        if target is not None:
            some = n - whole
            mass, dot = with_mass(target, begin + whole, some, shifted, mass, dot, zero)
    return BlockSums(block_max, sum_lanes(total), sum_lanes(mass), sum_lanes(dot))


@inlined
def block_factor(block_max: float, row_max: float) -> Any:
    """exp(block maximum - row maximum), exactly 1 for the block that holds the maximum."""
    return 1.0 if block_max == row_max else exp_of_negative(block_max - row_max)


@inlined
def share_of(row: BlockSums, blocks: Any, k: int) -> Any:
    """What the stored exponential of class k is multiplied by: mass / s, relative to its block."""
    return row.mass / row.sum * block_factor(blocks[4 * (k // BLOCK)], row.max)


@inlined
def merge(blocks: Any, count: int) -> BlockSums:
    """From the blocks' sums, in block order, to the row's."""
    row_max, total, mass, dot = -np.inf, 0.0, 0.0, 0.0
    for b in range(count):
        row_max = max(row_max, blocks[4 * b])
    for b in range(count):
        block_max, block_sum = blocks[4 * b], blocks[4 * b + 1]
        # the sum of a masked block is 0, or NaN
        masked = block_max == -np.inf
        total += block_sum if masked else block_sum * block_factor(block_max, row_max)
        mass += blocks[4 * b + 2]
        dot += blocks[4 * b + 3] + blocks[4 * b + 2] * (shift_of(block_max) - row_max)
    return BlockSums(row_max, total, mass, dot)


@inlined
def row_forward(
    logits: Any, classes: int, target: Any, exps: Any, exps_step: int, blocks: Any, zero: Any
) -> BlockSums:
    """Sums of a row."""
    count = 0
    for begin in range(0, classes, BLOCK):
        sums = block_forward(
            pointer(logits, begin, zero),
            begin,
            block_length(begin, classes),
            target,
            pointer(exps, begin * exps_step, zero),
            zero,
        )
        blocks[4 * count], blocks[4 * count + 1] = sums.max, sums.sum
        blocks[4 * count + 2], blocks[4 * count + 3] = sums.mass, sums.dot
        count += 1
    return merge(blocks, count)


@inlined
def gradient(exps: Any, k: int, some: Any, target: Any, factor: Any, scale: Any, zero: Any) -> Any:
    """scale * (factor * exps - t), or factor * exps without a target."""
    e = load(exps, k, some, 0.0, zero)
    if target is not None:
        return fms(e, factor, mass_at(target, k, some, zero)) * scale
    return e * factor


@inlined
def row_close(
    exps: Any, classes: int, target: Any, scale: float, row: BlockSums, blocks: Any, zero: Any
) -> None:
    """Turn exps into scale * (mass / s * exps - t), block by block."""
    lanes = lane_count(zero)
    scales = splat(scale, zero)
    for begin in range(0, classes, BLOCK):
        end = begin + block_length(begin, classes)
        whole = end - end % lanes
        share = share_of(row, blocks, begin)
        # where t is 0 the scale goes into the one factor; where it is not, it comes last, so that
        # the difference cancels exactly (C = 1: p = t = 1)
        factor = splat(scale * share if target is None else share, zero)
        for k in range(begin, whole, lanes):
            store(exps, k, None, gradient(exps, k, None, target, factor, scales, zero))
        if whole < end:
            some = end - whole
            store(exps, whole, some, gradient(exps, whole, some, target, factor, scales, zero))


@inlined
def row_log_proba(
    logits: Any, classes: int, row_max: float, log_sum: float, to: Any, zero: Any
) -> None:
    """(z - m) - log s."""
    lanes = lane_count(zero)
    whole = classes - classes % lanes
    top, log_total = splat(row_max, zero), splat(log_sum, zero)
    for k in range(0, whole, lanes):
        store(to, k, None, load(logits, k, None, 0.0, zero) - top - log_total)
    if whole < classes:
        some = classes - whole
        store(to, whole, some, load(logits, whole, some, 0.0, zero) - top - log_total)
