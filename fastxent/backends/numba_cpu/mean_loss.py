"""The verb mean_loss of a small call, on NumPy's own arrays: everything in one compiled function.

Numba takes an array apart in about 0.1 us; a launch by addresses spends 12 us in Python. The C++
twin is mean_loss in src_cython/_kernels.pyx.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastxent.backends.contract import BLOCK, SLICE_ELEMENTS, TILE_CLASSES
from fastxent.backends.numba_cpu.by_row import rows_chunk
from fastxent.backends.numba_cpu.by_tile import tiles_chunk
from fastxent.backends.numba_cpu.fields import pass_at
from fastxent.backends.numba_cpu.jit import inlined, serial
from fastxent.backends.numba_cpu.labels import count_labels
from fastxent.backends.numba_cpu.lanes import address_of, pointer, stack
from fastxent.backends.numba_cpu.long_sum import value_of, with_number
from fastxent.backends.numba_cpu.matrix import DOUBLE, FLOAT
from fastxent.backends.numba_cpu.records import PASS
from fastxent.backends.numba_cpu.schedule import (
    BLOCK_SUMS,
    TILE_BUFFERS,
    chunk_rows_of,
    group_rows_of,
    over,
)

__all__ = [
    "MEAN_LOSS",
    "MOST_CLASSES",
    "PASS_WORDS",
    "SCRATCH_NUMBERS",
    "are_apart",
    "describe_rows",
    "place_rows",
    "run_rows",
]

# Blocks of a group of rows, whose sums lie on the stack: 64 are 3.5 KiB, a tile takes 31.
_MOST_BLOCKS = 64
MOST_CLASSES = _MOST_BLOCKS * BLOCK
_ROW_NUMBERS, _TILE_NUMBERS = _MOST_BLOCKS * BLOCK_SUMS, TILE_BUFFERS * TILE_CLASSES * 8
SCRATCH_NUMBERS = max(_ROW_NUMBERS, _TILE_NUMBERS)

PASS_WORDS = PASS.words

_chunk_rows_of, _group_rows_of = inlined(chunk_rows_of), inlined(group_rows_of)
_over = inlined(over)


@inlined
def are_apart(address: Any, size: int, other: Any, other_size: int) -> Any:
    """Whether two pieces of memory have no byte in common."""
    return address + size <= other or other + other_size <= address


@inlined
def place_rows(matrix: Any, data: int, rows: int, stride: int, size: int) -> None:
    """Describe contiguous rows of numbers of so many bytes."""
    matrix.data, matrix.kind, matrix.levels = data, DOUBLE if size == 8 else FLOAT, 1
    matrix.class_stride = size
    matrix.size[0], matrix.stride[0] = rows, stride


@inlined
def describe_rows(
    p: Any, words: Any, z: int, rows: int, classes: int, stride: int, step: int
) -> None:
    """Describe a pass over plain rows, at first without a target and without a gradient."""
    for i in range(PASS_WORDS):
        words[i] = 0
    chunk_rows = _chunk_rows_of(classes)
    p.rows, p.classes = rows, classes
    p.logit_scale, p.reads_directly, p.writes_directly = 1.0, 1, 1
    place_rows(p.logits, z, rows, stride, step)
    p.run, p.chunk_rows, p.chunks = max(rows, 1), chunk_rows, _over(rows, chunk_rows)
    p.chunk_tiles = chunk_rows // (64 // step)
    p.tiles_of_run, p.buffer_bytes = _over(rows, 64 // step), 64 * classes
    p.blocks, p.group_rows, p.pieces = _over(classes, BLOCK), _group_rows_of(classes), 1


@inlined
def run_rows(p: Any, tiled: Any, in_rows: Any, massed: Any, of_soft: Any, zero: Any) -> Any:
    """Run the pass; the sum of the losses."""
    total = 0.0, 0.0
    for chunk in range(p.chunks):
        loss = 0.0
        if tiled is not None:
            loss = tiles_chunk(p, chunk, p.scratch, massed, of_soft, None, zero)
        if in_rows is not None:
            loss = rows_chunk(p, chunk, p.scratch, massed, of_soft, None, zero)
        total = with_number(total, loss)
    return value_of(total)


@serial
def MEAN_LOSS(
    logits: Any, target: Any, has_skip: Any, skip: Any, grad: Any, wants_grad: Any, tiled: Any,
    in_rows: Any,
) -> Any:  # fmt: skip
    """Mean loss, or None and nothing written; the arrays are contiguous, and those of one call.

    Without `wants_grad`, `grad` is any array of the dtype of the logits.
    """
    zero = logits.dtype.type(0)
    rows, classes = logits.shape
    if rows == 0 or classes == 0 or len(target) != rows or rows * classes > SLICE_ELEMENTS:
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
    factors, scratch = stack(2, 0.0), stack(SCRATCH_NUMBERS, 0.0)
    words = stack(PASS_WORDS, np.int64(0))
    p, step = pass_at(words), logits.itemsize
    describe_rows(p, words, z, rows, classes, classes * step, step)
    p.labels, p.label_kind, p.has_skip, p.skip = y, 8, has_skip, skip
    p.spike, p.row_scale = address_of(factors), address_of(pointer(factors, 1, 0.0))
    if wants_grad:
        place_rows(p.grad, out, rows, classes * step, step)
    p.scratch = address_of(scratch)
    skipped, live = count_labels(p, pointer(y, 0, np.int64(0)), 0, rows)
    if skipped + live != rows or live == 0:
        return None
    factors[0], factors[1] = 1.0, 1.0 / live
    return run_rows(p, tiled, in_rows, None, None, zero) / live
