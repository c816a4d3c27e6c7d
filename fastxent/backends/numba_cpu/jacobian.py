"""The verb softmax_backward as bodies of chunks, for drivers to run.

See kernels.py. The dummy `tiled` is None for rows one by one, `stored` is a number as the arrays
hold it (storage.py), `log` is None for the softmax and a number for its logarithm.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from fastxent.backends.contract import BLOCK, JACOBIAN_TILE_CLASSES
from fastxent.backends.numba_cpu.arguments import Memory, matrix_of
from fastxent.backends.numba_cpu.body import Body
from fastxent.backends.numba_cpu.fields import jacobian_at
from fastxent.backends.numba_cpu.forward import ELEMENTS, side_by_side
from fastxent.backends.numba_cpu.jacobian_rows import close_piece, rows_chunk, sum_piece
from fastxent.backends.numba_cpu.jacobian_tile import TILES, tiles_chunk
from fastxent.backends.numba_cpu.launch import forked, most_workers, run_chunks
from fastxent.backends.numba_cpu.records import JACOBIAN
from fastxent.backends.numba_cpu.schedule import over, pieces_of, rows_of_chunk
from fastxent.precision import Array

if TYPE_CHECKING:
    from fastxent.jacobian import JacobianProblem

__all__ = ["softmax_backward"]


@Body
def _JACOBIAN(tiled: Any, log: Any, stored: Any, zero: Any) -> Callable[..., Any]:
    """A chunk of rows."""

    def product(place: int, other: int, chunk: int, scratch: int) -> Any:
        p = jacobian_at(place)
        begin = chunk * p.chunk_rows
        end = min(begin + p.chunk_rows, p.rows)
        if tiled is not None:
            tiles_chunk(p, begin, end, scratch, log, stored, zero)
        if tiled is None:
            rows_chunk(p, begin, end, scratch, log, stored, zero)
        return 0.0

    return product


@Body
def _SUM(log: Any, stored: Any, zero: Any) -> Callable[..., Any]:
    """A piece of a row that workers share: its sum."""

    def sum_of_piece(place: int, other: int, piece: int, scratch: int) -> Any:
        sum_piece(jacobian_at(place), piece, log, stored, zero)
        return 0.0

    return sum_of_piece


@Body
def _CLOSE(log: Any, stored: Any, zero: Any) -> Callable[..., Any]:
    """A piece of a row that workers share: what is written, from the sums of all."""

    def close_of_piece(place: int, other: int, piece: int, scratch: int) -> Any:
        close_piece(jacobian_at(place), piece, log, stored, zero)
        return 0.0

    return close_of_piece


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
    log = None if problem.log_proba is None else 0.0
    tiled = None if classes > JACOBIAN_TILE_CLASSES and all(map(side_by_side, arrays)) else 0.0
    if tiled is None:
        chunks = over(rows, chunk_rows)
        # a forked child takes the way of its parent, and need not compile another
        parents = (
            forked() and _SUM.has(log, stored, zero) and not _JACOBIAN.has(None, log, stored, zero)
        )
        pieces = pieces_of(classes, chunks, 2 if parents else most)
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
        "scratch": memory.scratch,
    }
    place = memory.with_pass(numbers, JACOBIAN)
    if pieces == 1:
        body, elements = _JACOBIAN(tiled, log, stored, zero), chunk_rows * classes
        run_chunks(body, place, memory, chunks, elements, workers)
        return
    for body in (_SUM(log, stored, zero), _CLOSE(log, stored, zero)):
        run_chunks(body, place, memory, rows * pieces, classes // pieces, workers)
