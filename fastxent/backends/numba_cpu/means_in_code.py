"""The mean loss of rows in somebody else's compiled code, on the calling thread.

Bit for bit what the backend gives: rows of few classes are taken sixteen at a time, as tiles.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastxent.backends.contract import BLOCK, TILE_CLASSES
from fastxent.backends.numba_cpu.fields import pass_at
from fastxent.backends.numba_cpu.jit import inlined, once
from fastxent.backends.numba_cpu.lanes import address_of, lane_count, pointer, stack
from fastxent.backends.numba_cpu.mean_loss import (
    MOST_CLASSES,
    PASS_WORDS,
    SCRATCH_NUMBERS,
    describe_rows,
    place_rows,
    run_rows,
)
from fastxent.backends.numba_cpu.schedule import BLOCK_SUMS, over

__all__ = ["mean_of_rows"]

_over = inlined(over)


@once
def mean_of_rows(
    z: int, rows: int, classes: int, stride: int, labels: int, label_kind: int, has_skip: Any,
    skip: int, soft: int, soft_stride: int, grad: int, grad_stride: int, counted: int,
    massed: Any, of_soft: Any, zero: Any,
) -> float:  # fmt: skip
    """Mean loss of rows with labels, or with probabilities; its gradient where `grad` is not 0.

    The arrays have been checked: `counted` rows, at least one, have a label that is not skipped.
    """
    factors, scratch = stack(2, 0.0), stack(SCRATCH_NUMBERS, 0.0)
    words = stack(PASS_WORDS, np.int64(0))
    p, step = pass_at(words), 64 // lane_count(zero)
    describe_rows(p, words, z, rows, classes, stride, step)
    factors[0], factors[1] = 1.0, 1.0 / counted
    p.spike, p.row_scale = address_of(factors), address_of(pointer(factors, 1, 0.0))
    p.labels, p.label_kind, p.has_skip, p.skip = labels, label_kind, has_skip, skip
    if soft != 0:
        place_rows(p.soft, soft, rows, soft_stride, step)
        p.soft_directly = 1
    if grad != 0:
        place_rows(p.grad, grad, rows, grad_stride, step)
    p.scratch = address_of(scratch)
    if classes <= TILE_CLASSES:
        of_tiles: float = run_rows(p, 0.0, None, massed, of_soft, zero) / counted
        return of_tiles
    memory = np.empty(BLOCK_SUMS * _over(classes, BLOCK) if classes > MOST_CLASSES else 0)
    if classes > MOST_CLASSES:
        p.scratch = np.int64(memory.ctypes.data)
    total = run_rows(p, None, 0.0, massed, of_soft, zero)
    if classes > MOST_CLASSES:
        memory[0] = total  # it lives until here
    mean: float = total / counted
    return mean
