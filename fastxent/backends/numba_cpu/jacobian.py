"""The verb softmax_backward as compiled loops over chunks, as a serial and a parallel twin.

See kernels.py. The dummy `tiled` is None for rows one by one, `stored` is a number as the arrays
hold it (storage.py), `log` is None for the softmax and a number for its logarithm.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import prange

from fastxent.backends.contract import BLOCK, JACOBIAN_TILE_CLASSES
from fastxent.backends.numba_cpu import cache, forks
from fastxent.backends.numba_cpu.arguments import Memory, matrix_of
from fastxent.backends.numba_cpu.fields import jacobian_at
from fastxent.backends.numba_cpu.forward import ELEMENTS, side_by_side
from fastxent.backends.numba_cpu.jacobian_rows import close_piece, rows_chunk, sum_piece
from fastxent.backends.numba_cpu.jacobian_tile import TILES, tiles_chunk
from fastxent.backends.numba_cpu.jit import inlined, parallel, serial
from fastxent.backends.numba_cpu.kernels import Twins, next_chunk
from fastxent.backends.numba_cpu.lanes import pointer
from fastxent.backends.numba_cpu.launch import most_workers, run
from fastxent.backends.numba_cpu.records import JACOBIAN
from fastxent.backends.numba_cpu.schedule import over, pieces_of, rows_of_chunk
from fastxent.precision import Array

if TYPE_CHECKING:
    from fastxent.jacobian import JacobianProblem

__all__ = ["softmax_backward"]


@inlined
def chunk_of(
    p: Any, chunk: int, scratch: int, tiled: Any, log: Any, stored: Any, zero: Any
) -> None:
    """One chunk of rows."""
    begin = chunk * p.chunk_rows
    end = min(begin + p.chunk_rows, p.rows)
    if tiled is not None:
        tiles_chunk(p, begin, end, scratch, log, stored, zero)
    if tiled is None:
        rows_chunk(p, begin, end, scratch, log, stored, zero)


@serial
def _jacobian_serial(place: int, tiled: Any, log: Any, stored: Any, zero: Any) -> None:
    p = jacobian_at(place)
    for chunk in range(p.chunks):
        chunk_of(p, chunk, p.scratch, tiled, log, stored, zero)


@parallel
def _jacobian_parallel(place: int, tiled: Any, log: Any, stored: Any, zero: Any) -> None:
    p = jacobian_at(place)
    pieces = p.pieces
    turns = 1 if pieces == 1 else 2
    items = p.chunks if pieces == 1 else p.rows * pieces
    for turn in range(turns):
        pointer(p.counter, 0, np.int64(0))[0] = 0
        for worker in prange(p.workers):
            q = jacobian_at(place)  # a parallel loop takes numbers along
            scratch = q.scratch + worker * q.scratch_bytes
            item = next_chunk(q.counter)
            while item < items:
                if pieces == 1:
                    chunk_of(q, item, scratch, tiled, log, stored, zero)
                elif turn == 0:
                    sum_piece(q, item, log, stored, zero)
                else:
                    close_piece(q, item, log, stored, zero)
                item = next_chunk(q.counter)


_JACOBIAN = Twins(_jacobian_serial, _jacobian_parallel)
cache.attach(_JACOBIAN)
forks.prepare(_JACOBIAN)


def softmax_backward(problem: JacobianProblem, out: Array) -> None:
    """Fill `out` with the Jacobian product."""
    kind = problem.precision.kind
    stored, zero = ELEMENTS[kind], np.float64(0) if kind == "float64" else np.float32(0)
    first = problem.log_proba if problem.proba is None else problem.proba
    assert first is not None
    arrays = [first, problem.grad, out]
    *leading, classes = out.shape
    rows, blocks, pieces = math.prod(leading), over(classes, BLOCK), 1
    chunk_rows = rows_of_chunk(classes)
    most = most_workers(problem.num_threads)
    tiled = None if classes > JACOBIAN_TILE_CLASSES and all(map(side_by_side, arrays)) else 0.0
    if tiled is None:
        chunks = over(rows, chunk_rows)
        pieces = pieces_of(classes, chunks, most)
        own = 8 * blocks * (rows if pieces > 1 else 1)
    else:
        lanes = 64 // zero.itemsize
        strip = TILES * lanes
        step = lanes if rows < 2 * most * strip else strip
        chunk_rows = over(chunk_rows, step) * step
        chunks, own = over(rows, chunk_rows), 2 * 64 * TILES * classes
    workers = max(1, min(most, chunks if pieces == 1 else rows * pieces))
    memory = Memory()
    memory.allocate(workers if pieces == 1 else 1, own)
    numbers = {
        "rows": rows,
        "classes": classes,
        "first": matrix_of(first, kind),
        "grad": matrix_of(problem.grad, kind),
        "out": matrix_of(out, kind),
        "chunk_rows": chunk_rows,
        "chunks": chunks,
        "blocks": blocks,
        "pieces": pieces,
        "workers": workers,
        "counter": memory.address,
        "scratch": memory.scratch,
        "scratch_bytes": memory.own,
    }
    log = None if problem.log_proba is None else 0.0
    run(_JACOBIAN, workers, memory.with_pass(numbers, JACOBIAN), tiled, log, stored, zero)
