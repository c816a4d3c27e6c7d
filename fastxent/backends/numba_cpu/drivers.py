"""Loops over the chunks of any verb, each as a serial and a parallel twin.

The parallel loop hands out chunks through a shared counter: a core that is busy elsewhere delays a
call by one chunk only, and which worker takes a chunk changes no bit of the result. The serial twin
starts no threads at all, which is what makes it safe in a forked child and beside another caller of
Numba's workqueue layer.

A driver runs chunks from `first` up to `last`, so that Python can look at signals in between; the
totals of all chunks are added up, in their order, where it is told a place for the sum.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import prange

from fastxent.backends.numba_cpu.body import call_body
from fastxent.backends.numba_cpu.jit import inlined, parallel, serial
from fastxent.backends.numba_cpu.lanes import fetch_add, pointer
from fastxent.backends.numba_cpu.long_sum import value_of, with_number

__all__ = ["BEGIN_TURN", "CHUNKS", "END_TURN", "TURNS", "Twins", "next_chunk"]

# Numbers of no piece: what comes before and after the pieces of a turn.
BEGIN_TURN, END_TURN = -1, -2


class Twins(NamedTuple):
    """A verb on the calling thread, and on Numba's threads."""

    serial: Any
    parallel: Any


@inlined
def next_chunk(counter: int) -> Any:
    """Number of the next chunk that no worker has taken."""
    return fetch_add(pointer(counter, 0, np.int64(0)), 1)


@inlined
def _put_total(totals: int, chunks: int, total: int) -> None:
    """The sum of the chunks' losses, if anybody wants it."""
    if total != 0:
        sum_of_all = 0.0, 0.0
        for chunk in range(chunks):
            sum_of_all = with_number(sum_of_all, pointer(totals, chunk, 0.0)[0])
        pointer(total, 0, 0.0)[0] = value_of(sum_of_all)


@serial
def _chunks_serial(
    body: int, place: int, other: int, first: int, last: int,
    counter: int, workers: int, scratch: int, scratch_bytes: int, totals: int, total: int,
) -> None:  # fmt: skip
    for chunk in range(first, last):
        loss = call_body(body, place, other, chunk, scratch)
        if totals != 0:
            pointer(totals, chunk, 0.0)[0] = loss
    _put_total(totals, last, total)


@parallel
def _chunks_parallel(
    body: int, place: int, other: int, first: int, last: int,
    counter: int, workers: int, scratch: int, scratch_bytes: int, totals: int, total: int,
) -> None:  # fmt: skip
    pointer(counter, 0, np.int64(0))[0] = first
    for worker in prange(workers):
        chunk = next_chunk(counter)
        while chunk < last:
            loss = call_body(body, place, other, chunk, scratch + worker * scratch_bytes)
            if totals != 0:
                pointer(totals, chunk, 0.0)[0] = loss
            chunk = next_chunk(counter)
    _put_total(totals, last, total)


@inlined
def _begin_turn(body: int, place: int, state: int, turn: int) -> Any:
    pointer(state, 0, np.int64(0))[0] = turn
    return call_body(body, place, state, BEGIN_TURN, 0) != 0.0


@serial
def _turns_serial(
    body: int, place: int, state: int, first: int, last: int, pieces: int,
    counter: int, workers: int, scratch: int, scratch_bytes: int,
    totals: int, chunks: int, total: int,
) -> None:  # fmt: skip
    for turn in range(first, last):
        if _begin_turn(body, place, state, turn):
            for piece in range(pieces):
                call_body(body, place, state, piece, scratch)
            call_body(body, place, state, END_TURN, 0)
    _put_total(totals, chunks, total)


@parallel
def _turns_parallel(
    body: int, place: int, state: int, first: int, last: int, pieces: int,
    counter: int, workers: int, scratch: int, scratch_bytes: int,
    totals: int, chunks: int, total: int,
) -> None:  # fmt: skip
    for turn in range(first, last):
        if _begin_turn(body, place, state, turn):
            pointer(counter, 0, np.int64(0))[0] = 0
            for worker in prange(workers):
                piece = next_chunk(counter)
                while piece < pieces:
                    call_body(body, place, state, piece, scratch + worker * scratch_bytes)
                    piece = next_chunk(counter)
            call_body(body, place, state, END_TURN, 0)
    _put_total(totals, chunks, total)


CHUNKS = Twins(_chunks_serial, _chunks_parallel)
# of rows that workers share: a row takes two turns, the pieces of each handed out like chunks
TURNS = Twins(_turns_serial, _turns_parallel)
