"""The verb softmax_backward as compiled loops over chunks, as a serial and a parallel twin.

See kernels.py; the numbers of a call are in jacobian_rows.py. The dummy `tiled` is None for rows
one by one, `half` is None where what is stored is computed with.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import prange, types
from numba.extending import overload

from fastxent.backends.contract import BLOCK, CHUNK_ELEMENTS, TILE_CLASSES
from fastxent.backends.numba_cpu import cache
from fastxent.backends.numba_cpu.arguments import Memory
from fastxent.backends.numba_cpu.jacobian_rows import (
    CHUNK_ROWS,
    CHUNKS,
    COUNTER,
    PIECES,
    ROWS,
    SCRATCH,
    SCRATCH_BYTES,
    WORKERS,
    close_piece,
    rows_chunk,
    sum_piece,
)
from fastxent.backends.numba_cpu.jacobian_tile import TILES, tiles_chunk
from fastxent.backends.numba_cpu.jit import parallel, serial
from fastxent.backends.numba_cpu.kernels import Twins, next_chunk
from fastxent.backends.numba_cpu.lanes import pointer
from fastxent.backends.numba_cpu.launch import most_workers, run
from fastxent.backends.numba_cpu.schedule import over
from fastxent.precision import Array

if TYPE_CHECKING:
    from fastxent.jacobian import JacobianProblem

__all__ = ["softmax_backward"]


def chunk_of(
    call: Any, chunk: int, scratch: int, tiled: Any, log: Any, half: Any, stored: Any, zero: Any
) -> None:
    """One chunk of rows."""
    raise NotImplementedError("compiled code only")


@overload(chunk_of)
def _chunk_of(
    call: Any, chunk: Any, scratch: Any, tiled: Any, log: Any, half: Any, stored: Any, zero: Any
) -> Any:
    def of_rows(
        call: Any, chunk: Any, scratch: Any, tiled: Any, log: Any, half: Any, stored: Any, zero: Any
    ) -> None:
        begin = chunk * call[CHUNK_ROWS]
        rows_chunk(
            call, begin, min(begin + call[CHUNK_ROWS], call[ROWS]), scratch, log, stored, zero
        )

    def of_tiles(
        call: Any, chunk: Any, scratch: Any, tiled: Any, log: Any, half: Any, stored: Any, zero: Any
    ) -> None:
        begin = chunk * call[CHUNK_ROWS]
        end = min(begin + call[CHUNK_ROWS], call[ROWS])
        tiles_chunk(call, begin, end, scratch, log, half, stored, zero)

    return of_rows if isinstance(tiled, types.NoneType) else of_tiles


@serial
def _jacobian_serial(place: int, tiled: Any, log: Any, half: Any, stored: Any, zero: Any) -> None:
    call = pointer(place, 0, np.int64(0))
    for chunk in range(call[CHUNKS]):
        chunk_of(call, chunk, call[SCRATCH], tiled, log, half, stored, zero)


@parallel
def _jacobian_parallel(place: int, tiled: Any, log: Any, half: Any, stored: Any, zero: Any) -> None:
    call = pointer(place, 0, np.int64(0))
    pieces = call[PIECES]
    turns = 1 if pieces == 1 else 2
    items = call[CHUNKS] if pieces == 1 else call[ROWS] * pieces
    for turn in range(turns):
        pointer(call[COUNTER], 0, np.int64(0))[0] = 0
        for worker in prange(call[WORKERS]):
            scratch = call[SCRATCH] + worker * call[SCRATCH_BYTES]
            item = next_chunk(call[COUNTER])
            while item < items:
                if pieces == 1:
                    chunk_of(call, item, scratch, tiled, log, half, stored, zero)
                elif turn == 0:
                    sum_piece(call, item, log, stored, zero)
                else:
                    close_piece(call, item, log, stored, zero)
                item = next_chunk(call[COUNTER])


_JACOBIAN = Twins(_jacobian_serial, _jacobian_parallel)
cache.attach(_JACOBIAN)

# Numbers as they are stored (jacobian_numbers.py) and as they are computed with.
_NUMBERS: dict[str, tuple[Any, Any]] = {
    "float32": (np.float32(0), np.float32(0)),
    "float64": (np.float64(0), np.float64(0)),
    "float16": (np.int16(0), np.float32(0)),
    "bfloat16": (np.uint16(0), np.float32(0)),
}


def _described(array: Array) -> list[int]:
    """The numbers of jacobian_rows.Rows."""
    leading = array.ndim - 1
    data, size = array.__array_interface__["data"][0], array.itemsize
    unused = [0] * (4 - leading)
    aligned = data % size == 0 and all(step % size == 0 for step in array.strides)
    sizes, strides = [*array.shape[:-1], *unused], [*array.strides[:-1], *unused]
    return [data, leading, *sizes, *strides, array.strides[-1], int(aligned)]


def softmax_backward(problem: JacobianProblem, out: Array) -> None:
    """Fill `out` with the Jacobian product."""
    stored, zero = _NUMBERS[problem.precision.kind]
    first = problem.log_proba if problem.proba is None else problem.proba
    assert first is not None
    arrays = [first, problem.grad, out]
    described = [_described(array) for array in arrays]
    *leading, classes = out.shape
    rows, blocks, pieces = math.prod(leading), over(classes, BLOCK), 1
    chunk_rows = max(1, CHUNK_ELEMENTS // classes)
    most = most_workers(problem.num_threads)
    close = all(numbers[-1] and numbers[-2] == out.itemsize for numbers in described)
    tiled = None if classes > TILE_CLASSES and close else 0.0
    if tiled is None:
        chunks = over(rows, chunk_rows)
        if most > 1 and chunks < 2 * most:
            pieces = min(over(classes, CHUNK_ELEMENTS), 8 * most)
        own = 8 * blocks * (rows if pieces > 1 else 1)
    else:
        lanes = 64 // zero.itemsize
        strip = TILES * lanes
        step = lanes if rows < 2 * most * strip else strip
        chunk_rows = over(chunk_rows, step) * step
        chunks, own = over(rows, chunk_rows), 2 * 64 * TILES * classes
    workers = max(1, min(most, chunks if pieces == 1 else rows * pieces))
    # tiles begin at a line: `own` has room for that
    memory = Memory(workers if pieces == 1 else 1, own=over(own, 64) * 64)
    call = [rows, classes, chunk_rows, chunks, blocks, pieces, workers]
    call += [memory.address, over(memory.scratch, 64) * 64, memory.own]
    numbers = np.array([*call, *described[0], *described[1], *described[2]], np.int64)
    log = None if problem.log_proba is None else 0.0
    half = None if stored.itemsize > 2 else 0.0
    place = numbers.ctypes.data
    run(_JACOBIAN, workers, place, tiled, log, half, stored, zero)
