"""Plain vector copies on the threads of Numba: the measure of what memory gives.

They write the negative, because a loop that copies is turned into a call of memcpy, which goes
around the caches for large arrays; no kernel that needs its output once more can do so. Each worker
has a part of its own, so that what fits into the caches of its core stays there, and takes chunks
of the others when it is done: a core that is busy elsewhere delays a call by one chunk.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import prange

from fastxent.backends.numba_cpu.jit import inlined, numba, parallel
from fastxent.backends.numba_cpu.lanes import fetch_add, pointer
from fastxent.precision import Array

__all__ = ["copy", "copy_in_place", "copy_two"]

CHUNK_BYTES = 128 * 1024
COUNTER_STEP = 8  # a cache line for each counter, so that nobody waits for another one's


@inlined
def _negate(first: Array, second: Array, target: Array) -> None:
    for i in range(first.size):
        target[i] = -first[i]


@inlined
def _negate_in_place(first: Array, second: Array, target: Array) -> None:
    for i in range(target.size):
        target[i] = -target[i]


@inlined
def _subtract(first: Array, second: Array, target: Array) -> None:
    for i in range(first.size):
        target[i] = first[i] - second[i]


@inlined
def _next(counters: int, owner: int) -> int:
    taken: int = fetch_add(pointer(counters, owner * COUNTER_STEP, np.int64(0)), 1)
    return taken


@parallel
def _in_chunks(
    work: Any, first: Array, second: Array, target: Array, chunk: int, counters: Array, address: int
) -> None:
    workers = counters.size // COUNTER_STEP
    for i in range(counters.size):  # as an assignment it would be a parallel region of its own
        counters[i] = 0
    chunks = (first.size + chunk - 1) // chunk
    for worker in prange(workers):
        for turn in range(workers):
            owner = (worker + turn) % workers
            number = chunks * owner // workers + _next(address, owner)
            while number < chunks * (owner + 1) // workers:
                a, b = number * chunk, (number + 1) * chunk
                work(first[a:b], second[a:b], target[a:b])
                number = chunks * owner // workers + _next(address, owner)


def _prepared(
    work: Any, threads: int, first: Array, second: Array, target: Array
) -> Callable[[], None]:
    one, two, out = (array.reshape(-1) for array in (first, second, target))
    chunk = CHUNK_BYTES // first.itemsize
    counters = np.zeros(threads * COUNTER_STEP, np.int64)
    address = counters.ctypes.data

    def run() -> None:
        before = numba.get_num_threads()
        numba.set_num_threads(threads)
        try:
            _in_chunks(work, one, two, out, chunk, counters, address)
        finally:
            numba.set_num_threads(before)

    return run


def copy(source: Array, target: Array, threads: int) -> Callable[[], None]:
    """Give a call that reads one array and writes another: its negative."""
    return _prepared(_negate, threads, source, source, target)


def copy_in_place(array: Array, threads: int) -> Callable[[], None]:
    """Give a call that reads and writes one array: its negative."""
    return _prepared(_negate_in_place, threads, array, array, array)


def copy_two(first: Array, second: Array, target: Array, threads: int) -> Callable[[], None]:
    """Give a call that reads two arrays and writes a third: their difference."""
    return _prepared(_subtract, threads, first, second, target)
