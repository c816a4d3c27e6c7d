"""The verbs as compiled loops over chunks, each as a serial and a parallel twin.

The C++ twin is src_cython/kernels.cpp. The parallel loop hands out fixed chunks through a shared
counter: a core that is busy elsewhere delays a call by one chunk only, and which worker takes a
chunk changes no bit of the result. The serial twins start no threads at all, which is what makes
them safe in a forked child and beside another caller of Numba's workqueue layer.

Dummies choose the variant that is compiled, by being None or a number: `tiled` for rows in the
lanes, `stored` for the dtype of probabilities, `on_all` for mass on all classes (probabilities:
weights), `zero` for the compute dtype.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import prange, types
from numba.extending import overload

from fastxent.backends.numba_cpu.arguments import LabelCheck, Pass
from fastxent.backends.numba_cpu.by_row import rows_chunk
from fastxent.backends.numba_cpu.by_shared_row import (
    ROW_NUMBERS,
    begin_turn,
    end_turn,
    work_on_piece,
)
from fastxent.backends.numba_cpu.by_tile import tiles_chunk
from fastxent.backends.numba_cpu.jit import inlined, parallel, serial
from fastxent.backends.numba_cpu.labels import check_chunk, summary
from fastxent.backends.numba_cpu.lanes import address_of, fetch_add, pointer, stack
from fastxent.backends.numba_cpu.long_sum import value_of, with_number

__all__ = ["CHECK_LABELS", "FORWARD", "Twins", "forward_chunk", "next_chunk"]


class Twins(NamedTuple):
    """A verb on the calling thread, and on Numba's threads."""

    serial: Any
    parallel: Any


def forward_chunk(
    p: Pass, chunk: int, scratch: int, tiled: Any, on_all: Any, stored: Any, zero: Any
) -> Any:
    """One chunk of rows; their loss."""
    raise NotImplementedError("compiled code only")


@overload(forward_chunk)
def _forward_chunk(
    p: Any, chunk: Any, scratch: Any, tiled: Any, on_all: Any, stored: Any, zero: Any
) -> Any:
    def of_rows(
        p: Any, chunk: Any, scratch: Any, tiled: Any, on_all: Any, stored: Any, zero: Any
    ) -> Any:
        begin = chunk * p.chunk_rows
        end = min(begin + p.chunk_rows, p.rows)
        return rows_chunk(p, begin, end, scratch, on_all, stored, zero)

    def of_tiles(
        p: Any, chunk: Any, scratch: Any, tiled: Any, on_all: Any, stored: Any, zero: Any
    ) -> Any:
        begin = chunk * p.chunk_rows
        end = min(begin + p.chunk_rows, p.rows)
        return tiles_chunk(p, begin, end, on_all, stored, zero)

    return of_rows if isinstance(tiled, types.NoneType) else of_tiles


@inlined
def next_chunk(counter: int) -> Any:
    """Number of the next chunk that no worker has taken."""
    return fetch_add(pointer(counter, 0, np.int64(0)), 1)


@serial
def _check_labels_serial(numbers: Any) -> tuple[int, int, float]:
    p = LabelCheck(*numbers)
    for chunk in range(p.chunks):
        check_chunk(p, chunk)
    return summary(p)


@parallel
def _check_labels_parallel(numbers: Any) -> tuple[int, int, float]:
    p = LabelCheck(*numbers)
    for _ in prange(p.workers):
        chunk = next_chunk(p.counter)
        while chunk < p.chunks:
            check_chunk(p, chunk)
            chunk = next_chunk(p.counter)
    return summary(p)


@serial
def _forward_serial(numbers: Any, tiled: Any, on_all: Any, stored: Any, zero: Any) -> None:
    p = Pass(*numbers)
    total = 0.0, 0.0
    for chunk in range(p.chunks):
        more = forward_chunk(p, chunk, p.scratch, tiled, on_all, stored, zero)
        total = with_number(total, more)
    if p.total != 0:
        pointer(p.total, 0, 0.0)[0] = value_of(total)


@parallel
def _forward_parallel(numbers: Any, tiled: Any, on_all: Any, stored: Any, zero: Any) -> None:
    p = Pass(*numbers)
    shared_row = address_of(stack(ROW_NUMBERS, 0.0))
    items, turns = (p.chunks, 1) if p.pieces == 1 else (p.pieces, 2 * p.rows)
    for turn in range(turns):
        if p.pieces > 1 and not begin_turn(p, turn, shared_row, zero):
            continue
        pointer(p.counter, 0, np.int64(0))[0] = 0
        for worker in prange(p.workers):
            scratch = p.scratch + worker * p.scratch_bytes
            item = next_chunk(p.counter)
            while item < items:
                if p.pieces > 1:
                    work_on_piece(p, turn, item, shared_row, on_all, stored, zero)
                else:
                    loss = forward_chunk(p, item, scratch, tiled, on_all, stored, zero)
                    pointer(p.totals, item, 0.0)[0] = loss
                item = next_chunk(p.counter)
        if p.pieces > 1:
            end_turn(p, turn, shared_row, on_all, stored, zero)
    if p.total != 0:
        total = 0.0, 0.0
        for chunk in range(p.chunks):
            total = with_number(total, pointer(p.totals, chunk, 0.0)[0])
        pointer(p.total, 0, 0.0)[0] = value_of(total)


CHECK_LABELS = Twins(_check_labels_serial, _check_labels_parallel)
FORWARD = Twins(_forward_serial, _forward_parallel)
