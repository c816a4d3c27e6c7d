"""The verbs as compiled loops over chunks, each as a serial and a parallel twin.

The C++ twin is src_cython/kernels.cpp. The parallel loop hands out fixed chunks through a shared
counter: a core that is busy elsewhere delays a call by one chunk only, and which worker takes a
chunk changes no bit of the result. The serial twins start no threads at all, which is what makes
them safe in a forked child and beside another caller of Numba's workqueue layer.

Dummies choose the variant that is compiled, by being None or a number: `tiled` for rows in the
lanes, else `in_rows`; `massed` for mass on all classes, `of_soft` for probabilities; `zero` for the
compute dtype; `prepared` for whatever is not contiguous rows of the compute dtype and outputs that
cost nothing, a number of the dtype in which logits are stored (storage.py). All else a prepared
kernel decides as it runs, once a block: so variants do not multiply. Numba leaves out what stands
behind `is not None` of a None, and nothing else.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import prange

from fastxent.backends.numba_cpu.arguments import LabelCheck
from fastxent.backends.numba_cpu.by_row import rows_chunk
from fastxent.backends.numba_cpu.by_shared_row import (
    ROW_NUMBERS,
    begin_turn,
    end_turn,
    work_on_piece,
)
from fastxent.backends.numba_cpu.by_tile import tiles_chunk
from fastxent.backends.numba_cpu.fields import pass_at
from fastxent.backends.numba_cpu.jit import inlined, parallel, serial
from fastxent.backends.numba_cpu.labels import check_chunk, summary
from fastxent.backends.numba_cpu.lanes import address_of, fetch_add, pointer, stack
from fastxent.backends.numba_cpu.long_sum import value_of, with_number

__all__ = [
    "CHECK_LABELS",
    "FORWARD",
    "SHARED",
    "Twins",
    "begin_of_slice",
    "end_of_slice",
    "next_chunk",
    "put_total",
]


class Twins(NamedTuple):
    """A verb on the calling thread, and on Numba's threads."""

    serial: Any
    parallel: Any


@inlined
def next_chunk(counter: int) -> Any:
    """Number of the next chunk that no worker has taken."""
    return fetch_add(pointer(counter, 0, np.int64(0)), 1)


@inlined
def begin_of_slice(counter: int) -> Any:
    """The chunk with which this launch begins."""
    return pointer(counter, 0, np.int64(0))[0]


@inlined
def end_of_slice(counter: int, chunks: int) -> Any:
    """The chunk before which it stops: `launch.run_in_slices` may have others follow."""
    return min(chunks, pointer(counter, 1, np.int64(0))[0])


@serial
def _check_labels_serial(numbers: Any) -> tuple[int, int, float]:
    p = LabelCheck(*numbers)
    for chunk in range(begin_of_slice(p.counter), end_of_slice(p.counter, p.chunks)):
        check_chunk(p, chunk)
    return summary(p, end_of_slice(p.counter, p.chunks))


@parallel
def _check_labels_parallel(numbers: Any) -> tuple[int, int, float]:
    p = LabelCheck(*numbers)
    for _ in prange(p.workers):
        end = end_of_slice(p.counter, p.chunks)
        chunk = next_chunk(p.counter)
        while chunk < end:
            check_chunk(p, chunk)
            chunk = next_chunk(p.counter)
    return summary(p, end_of_slice(p.counter, p.chunks))


@inlined
def put_total(p: Any) -> None:
    """The sum of the chunks' losses, if anybody wants it and all of them are known."""
    if p.total != 0 and end_of_slice(p.counter, p.chunks) == p.chunks:
        total = 0.0, 0.0
        for chunk in range(p.chunks):
            total = with_number(total, pointer(p.totals, chunk, 0.0)[0])
        pointer(p.total, 0, 0.0)[0] = value_of(total)


@serial
def _forward_serial(
    address: int, tiled: Any, in_rows: Any, massed: Any, of_soft: Any, prepared: Any, zero: Any
) -> None:
    p = pass_at(address)
    for chunk in range(begin_of_slice(p.counter), end_of_slice(p.counter, p.chunks)):
        loss = 0.0
        if tiled is not None:
            loss = tiles_chunk(p, chunk, p.scratch, massed, of_soft, prepared, zero)
        if in_rows is not None:
            loss = rows_chunk(p, chunk, p.scratch, massed, of_soft, prepared, zero)
        pointer(p.totals, chunk, 0.0)[0] = loss
    put_total(p)


@parallel
def _forward_parallel(
    address: int, tiled: Any, in_rows: Any, massed: Any, of_soft: Any, prepared: Any, zero: Any
) -> None:
    p = pass_at(address)
    for worker in prange(p.workers):
        q = pass_at(address)  # a parallel loop takes numbers along
        scratch = q.scratch + worker * q.scratch_bytes
        end = end_of_slice(q.counter, q.chunks)
        chunk = next_chunk(q.counter)
        while chunk < end:
            loss = 0.0
            if tiled is not None:
                loss = tiles_chunk(q, chunk, scratch, massed, of_soft, prepared, zero)
            if in_rows is not None:
                loss = rows_chunk(q, chunk, scratch, massed, of_soft, prepared, zero)
            pointer(q.totals, chunk, 0.0)[0] = loss
            chunk = next_chunk(q.counter)
    put_total(p)


@parallel
def _forward_shared(
    address: int, tiled: Any, in_rows: Any, massed: Any, of_soft: Any, prepared: Any, zero: Any
) -> None:
    p = pass_at(address)
    shared_row = address_of(stack(ROW_NUMBERS, 0.0))
    first = begin_of_slice(p.counter) * p.chunk_rows
    last = min(end_of_slice(p.counter, p.chunks) * p.chunk_rows, p.rows)
    for turn in range(2 * first, 2 * last):
        if not begin_turn(p, turn, shared_row, prepared, zero):
            continue
        pointer(p.counter, 0, np.int64(0))[0] = 0
        for worker in prange(p.workers):
            q = pass_at(address)
            scratch = q.scratch + worker * q.scratch_bytes
            piece = next_chunk(q.counter)
            while piece < q.pieces:
                work_on_piece(q, turn, piece, shared_row, scratch, massed, of_soft, prepared, zero)
                piece = next_chunk(q.counter)
        end_turn(p, turn, shared_row, massed, prepared, zero)
    put_total(p)


CHECK_LABELS = Twins(_check_labels_serial, _check_labels_parallel)
FORWARD = Twins(_forward_serial, _forward_parallel)
# the same, where all workers work on one row after the other
SHARED = Twins(_forward_serial, _forward_shared)
