"""One row in somebody else's compiled code: the arithmetic of row.py without a description.

Bit for bit the pass of by_row.py over contiguous numbers.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastxent.backends.contract import BLOCK
from fastxent.backends.numba_cpu.arithmetic import first_lane, splat
from fastxent.backends.numba_cpu.elementary import log_of_sum
from fastxent.backends.numba_cpu.finish import RowNumbers, finish
from fastxent.backends.numba_cpu.jit import inlined, once
from fastxent.backends.numba_cpu.lanes import get, lane_count, pointer, put, stack
from fastxent.backends.numba_cpu.mean_loss import MOST_CLASSES
from fastxent.backends.numba_cpu.row import (
    FACTOR,
    Ahead,
    block_close,
    block_forward,
    block_length,
    block_max,
    merge,
)
from fastxent.backends.numba_cpu.schedule import BLOCK_SUMS, over
from fastxent.backends.numba_cpu.target import Masses

__all__ = ["row_loss", "row_lse"]

_over = inlined(over)
_STACK_SUMS = BLOCK_SUMS * (MOST_CLASSES // BLOCK)


class _Plain(NamedTuple):
    """What `finish` asks of a pass: that it has labels, or not, and no options."""

    labels: Any
    z_loss: Any
    softcap: Any


@once
def forward(z: int, classes: int, mass: int, exps: int, sums: Any, massed: Any, zero: Any) -> Any:
    """The row's m, s, sum t and sum t * (z - m); its blocks' exponentials where `exps` is not 0."""
    unread = stack(BLOCK, zero)
    size, blocks, nothing = 64 // lane_count(zero), _over(classes, BLOCK), np.int64(0)
    for number in range(blocks):
        begin = number * BLOCK
        n = block_length(begin, classes)
        source = pointer(z + begin * size, 0, zero)
        to = pointer(exps + begin * size, 0, zero) if exps != 0 else unread
        target = Masses(pointer(mass + begin * size, 0, zero), np.int64(1))
        block_forward(
            source, block_max(source, n, zero), n, target, to,
            pointer(sums, BLOCK_SUMS * number, 0.0), Ahead(nothing, nothing, nothing, nothing),
            massed, None, zero,
        )  # fmt: skip
    row_max, total, total_mass, dot, _, _ = merge(sums, blocks, None)
    return row_max, total, total_mass, dot


@once
def close(
    exps: int, classes: int, mass: int, scale: float, share: float, sums: Any, massed: Any,
    zero: Any,
) -> None:  # fmt: skip
    """scale * (share * exp(z - m) - t), of all blocks, in place of their exponentials."""
    size = 64 // lane_count(zero)
    for number in range(_over(classes, BLOCK)):
        begin = number * BLOCK
        factor = share * sums[BLOCK_SUMS * number + FACTOR]
        if massed is None:
            factor = scale * factor
        target = Masses(pointer(mass + begin * size, 0, zero), np.int64(1))
        place = pointer(exps + begin * size, 0, zero)
        block_close(place, block_length(begin, classes), target, scale, factor, massed, zero)


@once
def loss_with_sums(
    z: int, classes: int, label: int, mass: int, grad: int, scale: float, sums: Any, massed: Any,
    zero: Any,
) -> float:  # fmt: skip
    """Loss of a row with a label, or without one (-1) and with masses; its gradient into `grad`."""
    at_label, spike, exp_at_label = 0.0, 0.0, 0.0
    if label >= 0:
        # read before anything is written: the gradient may go over the logits
        at_label, spike = np.float64(get(pointer(z, 0, zero), label)), 1.0
    row_max, total, total_mass, dot = forward(z, classes, mass, grad, sums, massed, zero)
    if massed is None:
        total_mass, dot = spike, 0.0
    if label >= 0 and grad != 0:
        exp = np.float64(get(pointer(grad, 0, zero), label))
        exp_at_label = exp * sums[BLOCK_SUMS * (label // BLOCK) + FACTOR]
    results = finish(
        _Plain(np.int64(label >= 0), 0.0, 0.0),
        RowNumbers(
            splat(row_max, 0.0),
            splat(total, 0.0),
            splat(total_mass, 0.0),
            splat(dot, 0.0),
            splat(spike, 0.0),
            splat(scale, 0.0),
            splat(at_label, 0.0),
            splat(exp_at_label, 0.0),
            splat(0.0, 0.0),
        ),
    )
    if grad != 0:
        close(grad, classes, mass, scale, first_lane(results.share), sums, massed, zero)
        if label >= 0:
            put(pointer(grad, 0, zero), label, first_lane(results.grad_at_label))
    loss: float = first_lane(results.loss)
    return loss


@once
def lse_with_sums(z: int, classes: int, to: int, sums: Any, zero: Any) -> float:
    """m + log s of a row; its softmax into `to`, if that is not 0."""
    row_max, total, _, _ = forward(z, classes, z, to, sums, None, zero)
    if to != 0:
        close(to, classes, z, 1.0, 1.0 / total, sums, None, zero)
    elif (
        row_max == np.inf
    ):  # where the sum is NaN: whether there is a NaN, only the logits can tell
        for k in range(classes):
            if np.isnan(get(pointer(z, 0, zero), k)):
                return np.nan
        return np.inf
    lse: float = row_max + first_lane(log_of_sum(splat(total, 0.0)))
    return lse


# The sums of a row's blocks lie on the stack, or in an array that lives until they were used.


@once
def row_loss(
    z: int, classes: int, label: int, mass: int, grad: int, scale: float, massed: Any, zero: Any
) -> float:
    """See `loss_with_sums`."""
    if classes <= MOST_CLASSES:
        few = stack(_STACK_SUMS, 0.0)
        return loss_with_sums(z, classes, label, mass, grad, scale, few, massed, zero)
    many = np.empty(BLOCK_SUMS * _over(classes, BLOCK))
    sums = pointer(np.int64(many.ctypes.data), 0, 0.0)
    loss = loss_with_sums(z, classes, label, mass, grad, scale, sums, massed, zero)
    many[0] = 0.0
    return loss


@once
def row_lse(z: int, classes: int, to: int, zero: Any) -> float:
    """See `lse_with_sums`."""
    if classes <= MOST_CLASSES:
        return lse_with_sums(z, classes, to, stack(_STACK_SUMS, 0.0), zero)
    many = np.empty(BLOCK_SUMS * _over(classes, BLOCK))
    lse = lse_with_sums(z, classes, to, pointer(np.int64(many.ctypes.data), 0, 0.0), zero)
    many[0] = 0.0
    return lse
