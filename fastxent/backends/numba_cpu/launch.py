"""Which twin of a kernel runs, and on how many threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import llvmlite.binding
import numpy as np

from fastxent import threads
from fastxent.backends.numba_cpu import cache
from fastxent.backends.numba_cpu.binary import BINARY, BinaryPass
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
    "FORWARD",
    "MEAN_LOSS",
    "MOST_CLASSES",
    "SHARED",
    "STATE_BYTES",
    "BinaryPass",
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
_CACHE = cache.attach([*CHUNKS, *TURNS, label_summary, MEAN_LOSS, *BINARY])

# Elements that one call into compiled code computes: 0.1 s at 3 ns each, the slowest on a thread.
SLICE_ELEMENTS = 1 << 25


def why_not() -> str | None:
    """Whether Numba is told not to compile."""
    return "NUMBA_DISABLE_JIT is set" if numba.config.DISABLE_JIT else None


def most_workers(num_threads: int) -> int:
    """Threads that can be had."""
    if threads.forked():
        return 1
    most: int = numba.config.NUMBA_NUM_THREADS
    return min(num_threads, most)


def mean_loss(dtype: np.dtype[Any], tiled: bool) -> Any:
    """The kernel of calls without options; None in a forked child that would have to compile it.

    Its parent, on many threads, ran other kernels, which the child has too.
    """
    kernel: Any = MEAN_LOSS
    if threads.forked() and not any(
        argument.dtype.name == dtype.name and isinstance(way, numba.types.Float) is tiled
        for argument, *_, way, _ in kernel.overloads
    ):
        return None
    return kernel


def run(twins: Twins, workers: int, *arguments: Any) -> Any:
    """Run a kernel on so many threads, and give what it returns.

    Numba's workqueue layer aborts the process when two threads launch into it together: there,
    one caller at a time gets the parallel twin. No other library that uses the layer is kept out.
    """
    if workers == 1:
        return twins.serial(*arguments)
    if not twins.serial.overloads:  # a forked child runs this one, and is not to compile it first
        twins.serial.compile(tuple(map(numba.typeof, arguments)))
    before = numba.get_num_threads()  # starts Numba's threads, if nobody has: the layer is known
    if numba.threading_layer() != "workqueue":
        return _on_threads(twins.parallel, workers, before, arguments)
    with threads.only_caller() as alone:
        if alone:
            return _on_threads(twins.parallel, workers, before, arguments)
        return twins.serial(*arguments)


def run_chunks(
    body: int, place: int, memory: Memory, chunks: int, elements: int, workers: int, *,
    other: int = 0, totals: int = 0, total: int = 0,
) -> None:  # fmt: skip
    """Run a body on all chunks of so many elements, and put the sum of what it gives at `total`.

    In slices of SLICE_ELEMENTS: between two of them Python looks at signals.
    """
    step = max(1, SLICE_ELEMENTS // max(1, elements))
    for first in range(0, max(1, chunks), step):
        last = min(first + step, chunks)
        run(
            CHUNKS, workers, body, place, other, first, last,
            memory.address, workers, memory.scratch, memory.own,
            totals, total if last == chunks else 0,
        )  # fmt: skip


def run_turns(
    body: int, place: int, memory: Memory, turns: int, elements: int, pieces: int, workers: int, *,
    state: int, chunks: int, total: int,
) -> None:  # fmt: skip
    """Run a body on the pieces of each turn, which have so many elements together; in slices.

    `state` is memory for what a turn knows; the totals are those of chunks, as in `run_chunks`.
    """
    step = max(1, SLICE_ELEMENTS // max(1, elements))
    for first in range(0, max(1, turns), step):
        last = min(first + step, turns)
        run(
            TURNS, workers, body, place, state, first, last, pieces,
            memory.address, workers, memory.scratch, memory.own,
            memory.totals, chunks, total if last == turns else 0,
        )  # fmt: skip


def _on_threads(
    kernel: Callable[..., Any], workers: int, before: int, arguments: tuple[Any, ...]
) -> Any:
    numba.set_num_threads(workers)
    try:
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
