"""Which twin of a kernel runs, and on how many threads."""

from __future__ import annotations

import ctypes
import functools
import importlib
import threading
from collections.abc import Callable, Iterator
from time import perf_counter
from typing import TYPE_CHECKING, Any

import llvmlite.binding
import numpy as np

from fastxent import threads
from fastxent.backends.contract import SLICE_ELEMENTS
from fastxent.backends.numba_cpu import cache, forks
from fastxent.backends.numba_cpu.binary import BINARY, binary_summary
from fastxent.backends.numba_cpu.drivers import CHUNKS, TURNS, Twins
from fastxent.backends.numba_cpu.jit import numba
from fastxent.backends.numba_cpu.kernels import (
    CHECK_LABELS,
    FORWARD,
    SHARED,
    STATE_BYTES,
    label_summary,
)
from fastxent.backends.numba_cpu.mean_loss import MEAN_LOSS, MOST_CLASSES

if TYPE_CHECKING:
    from fastxent.backends.numba_cpu.arguments import Memory

__all__ = [
    "BINARY",
    "CHECK_LABELS",
    "CHUNKS",
    "FORWARD",
    "MEAN_LOSS",
    "MOST_CLASSES",
    "SHARED",
    "STATE_BYTES",
    "TURNS",
    "binary_summary",
    "forked",
    "info",
    "label_summary",
    "mean_loss",
    "most_workers",
    "run",
    "run_chunks",
    "run_turns",
    "why_not",
]

# Where compiled kernels are kept, or why they are not.
_CACHE = cache.attach([*CHUNKS, *TURNS, label_summary, binary_summary, MEAN_LOSS])

forks.guard()

# So long a slice lasts at least, and so many elements of a thread it has at most: where other
# threads run Python, a launch waits up to 5 ms for its lock; elements far apart take 20 ns.
_SLICE_SECONDS, _MOST_ELEMENTS = 0.025, 1 << 25


def why_not() -> str | None:
    """Whether Numba is told not to compile."""
    return "NUMBA_DISABLE_JIT is set" if numba.config.DISABLE_JIT else None


def forked() -> bool:
    """Whether this is a child whose parent may have compiled what it needs."""
    return threads.forked()


def most_workers(num_threads: int) -> int:
    """Threads that can be had."""
    if threads.forked():
        return 1
    most: int = numba.config.NUMBA_NUM_THREADS
    return int(min(num_threads, most))  # Numba takes int itself at once, and looks long at others


def mean_loss(dtype: np.dtype[Any], tiled: bool) -> Any:
    """The kernel of calls without options; None in a forked child that would have to compile it.

    Its parent, on many threads, ran other kernels, which the child has too.
    """
    kernel: Any = MEAN_LOSS
    if threads.forked() and not any(
        argument.dtype.name == dtype.name and isinstance(way, numba.types.Float) is tiled
        for argument, *_, way, _ in tuple(kernel.overloads)
    ):
        return None
    return kernel


@functools.cache
def _start_threads() -> None:
    """Start Numba's threads, if nobody has: then its layer is known.

    The layer omp sets OpenMP's limit and nesting for the thread that starts it: they are put back.
    """
    if numba.config.THREADING_LAYER in ("tbb", "workqueue"):
        numba.get_num_threads()
        return
    try:
        layer = importlib.import_module("numba.np.ufunc.omppool")
    except ImportError:
        numba.get_num_threads()
        return
    openmp = ctypes.CDLL(layer.__file__)  # finds the functions of the library that it is linked to
    limit, nesting = openmp.omp_get_max_threads(), openmp.omp_get_max_active_levels()
    numba.get_num_threads()
    openmp.omp_set_num_threads(limit)
    openmp.omp_set_max_active_levels(nesting)


def run(twins: Twins, workers: int, *arguments: Any) -> Any:
    """Run a kernel on so many threads, and give what it returns.

    Numba's workqueue layer aborts the process when two threads launch into it together: there,
    one caller at a time gets the parallel twin. No other library that uses the layer is kept out.
    """
    if workers == 1:
        return twins.serial(*arguments)
    if not twins.serial.overloads:  # a forked child runs this one, and is not to compile it first
        twins.serial.compile(tuple(map(numba.typeof, arguments)))
    _start_threads()
    before = numba.get_num_threads()
    if numba.threading_layer() != "workqueue":
        return _on_threads(twins.parallel, workers, before, arguments)
    with threads.only_caller() as alone:
        if alone:
            return _on_threads(twins.parallel, workers, before, arguments)
        return twins.serial(*arguments)


def _slices(units: int, elements: int, workers: int) -> Iterator[tuple[int, int]]:
    """First and last of the units, of so many elements each, that one launch after the other takes.

    A long call of the main thread takes several launches: between them Python runs the handlers of
    signals, so that Ctrl-C ends it. Slices grow until a launch, which costs 10 us, is nothing
    beside them.
    """
    if units * elements <= SLICE_ELEMENTS or threading.get_ident() != threading.main_thread().ident:
        yield 0, units
        return
    begin, size, most = 0, SLICE_ELEMENTS * workers, _MOST_ELEMENTS * workers
    while begin < units:
        end = min(begin + max(workers, size // elements), units)
        started = perf_counter()
        yield begin, end
        begin = end
        if perf_counter() - started < _SLICE_SECONDS:
            size = min(2 * size, most)


def run_chunks(
    body: int, place: int, memory: Memory, chunks: int, elements: int, workers: int, *,
    other: int = 0, totals: int = 0, total: int = 0,
) -> None:  # fmt: skip
    """Run a body on all chunks of so many elements, and put the sum of what it gives at `total`."""
    for first, last in _slices(chunks, elements, workers):
        run(
            CHUNKS, workers, body, place, other, first, last,
            memory.address, workers, memory.scratch, memory.own,
            totals, total if last == chunks else 0,
        )  # fmt: skip


def run_turns(
    body: int, place: int, memory: Memory, turns: int, elements: int, pieces: int, workers: int, *,
    state: int, chunks: int, total: int,
) -> None:  # fmt: skip
    """Run a body on the pieces of each turn, which have so many elements together.

    `state` is memory for what a turn knows; the totals are those of chunks, as in `run_chunks`.
    """
    for first, last in _slices(turns, elements, 1):
        run(
            TURNS, workers, body, place, state, first, last, pieces,
            memory.address, workers, memory.scratch, memory.own,
            memory.totals, chunks, total if last == turns else 0,
        )  # fmt: skip


def _on_threads(
    kernel: Callable[..., Any], workers: int, before: int, arguments: tuple[Any, ...]
) -> Any:
    try:  # as soon as the number is another: a signal's handler may raise behind any line
        numba.set_num_threads(workers)
        return kernel(*arguments)
    finally:
        numba.set_num_threads(before)


def info() -> dict[str, str]:
    """Versions, threads, cache and CPU, for `fastxent info`."""
    try:
        layer = numba.threading_layer()
    except ValueError:  # nothing parallel has run yet
        layer = f"{numba.config.THREADING_LAYER} (configured, not started)"
    return {
        "numba": numba.__version__,
        "llvmlite": llvmlite.__version__,
        "threading layer": layer,
        "NUMBA_NUM_THREADS": str(numba.config.NUMBA_NUM_THREADS),
        "cache": _CACHE,
        "CPU": numba.config.CPU_NAME or llvmlite.binding.get_host_cpu_name(),
    }
