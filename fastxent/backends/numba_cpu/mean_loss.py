"""The verb mean_loss of a small call, on NumPy's own arrays: everything in one compiled function.

Numba takes an array apart in about 0.1 us; a launch by addresses spends 12 us in Python. The C++
twin is mean_loss in src_cython/_kernels.pyx.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastxent.backends.contract import BLOCK
from fastxent.backends.numba_cpu.arguments import Pass, chunk_rows_of, group_rows_of, over
from fastxent.backends.numba_cpu.jit import inlined, serial
from fastxent.backends.numba_cpu.kernels import forward_chunk
from fastxent.backends.numba_cpu.labels import count_labels
from fastxent.backends.numba_cpu.lanes import address_of, pointer, stack
from fastxent.backends.numba_cpu.long_sum import value_of, with_number
from fastxent.backends.numba_cpu.row import BLOCK_SUMS

__all__ = ["MEAN_LOSS", "MOST_CLASSES"]

# Blocks of a group of rows, whose sums lie on the stack: 64 are 2.5 KiB.
_MOST_BLOCKS = 64
MOST_CLASSES = _MOST_BLOCKS * BLOCK
_SCRATCH_NUMBERS = _MOST_BLOCKS * BLOCK_SUMS

_chunk_rows_of, _group_rows_of = inlined(chunk_rows_of), inlined(group_rows_of)
_over = inlined(over)


@inlined
def are_apart(address: Any, size: int, other: Any, other_size: int) -> Any:
    """Whether two pieces of memory have no byte in common."""
    return address + size <= other or other + other_size <= address


@serial
def MEAN_LOSS(
    logits: Any, target: Any, has_skip: Any, skip: Any, grad: Any, wants_grad: Any, tiled: Any
) -> Any:
    """Mean loss, or None and nothing written; the arrays are contiguous, and those of one call.

    Without `wants_grad`, `grad` is any array of the dtype of the logits.
    """
    zero = logits.dtype.type(0)
    rows, classes = logits.shape
    if rows == 0 or classes == 0 or len(target) != rows:
        return None
    z: Any = np.int64(logits.ctypes.data)
    y: Any = np.int64(target.ctypes.data)
    out: Any = np.int64(0)
    if wants_grad:
        out = np.int64(grad.ctypes.data)
        size = logits.size * logits.itemsize
        if grad.shape != logits.shape or not are_apart(out, size, y, 8 * rows):
            return None
        if out != z and not are_apart(out, size, z, size):
            return None
    chunk_rows = _chunk_rows_of(classes)
    factors, scratch = stack(2, 0.0), stack(_SCRATCH_NUMBERS, 0.0)
    # compiled code knows no defaults
    p = Pass(
        rows=rows, classes=classes, logits=z, logits_stride=classes,
        labels=y, label_kind=8, has_skip=has_skip, skip=skip,
        soft=0, soft_stride=0, gain=0, gain_step=0,
        background=0, background_step=0, background_total=0.0,
        spike=address_of(factors), spike_step=0,
        row_scale=address_of(pointer(factors, 1, 0.0)), row_scale_step=0,
        loss=0, total=0, row_max=0, row_sum=0, grad=out, log_proba=0, out_stride=classes,
        chunk_rows=chunk_rows, chunks=_over(rows, chunk_rows), blocks=_over(classes, BLOCK),
        group_rows=_group_rows_of(classes), pieces=1, workers=1, counter=0, totals=0,
        scratch=address_of(scratch), scratch_bytes=0,
    )  # fmt: skip
    skipped, live = count_labels(p, pointer(y, 0, np.int64(0)), 0, rows)
    if skipped + live != rows or live == 0:
        return None
    factors[0], factors[1] = 1.0, 1.0 / live
    total = 0.0, 0.0
    for chunk in range(p.chunks):
        loss = forward_chunk(p, chunk, p.scratch, tiled, None, None, zero)
        total = with_number(total, loss)
    return value_of(total) / live
