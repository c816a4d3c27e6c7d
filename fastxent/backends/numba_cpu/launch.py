"""Which twin of a kernel runs, and on how many threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import llvmlite.binding

from fastxent import threads
from fastxent.backends.numba_cpu import cache, forks
from fastxent.backends.numba_cpu.binary import BINARY, BinaryPass
from fastxent.backends.numba_cpu.forks import LONG_WAY
from fastxent.backends.numba_cpu.jit import numba
from fastxent.backends.numba_cpu.kernels import CHECK_LABELS, FORWARD, SHARED, Twins
from fastxent.backends.numba_cpu.mean_loss import MEAN_LOSS, MOST_CLASSES

__all__ = [
    "BINARY",
    "CHECK_LABELS",
    "FORWARD",
    "LONG_WAY",
    "MEAN_LOSS",
    "MOST_CLASSES",
    "SHARED",
    "BinaryPass",
    "info",
    "most_workers",
    "run",
    "why_not",
]

# Where compiled kernels are kept, or why they are not.
_CACHE = cache.attach([*CHECK_LABELS, *FORWARD, SHARED.parallel, MEAN_LOSS, *BINARY])
forks.prepare(CHECK_LABELS, FORWARD, SHARED, BINARY)


def why_not() -> str | None:
    """Whether Numba is told not to compile."""
    return "NUMBA_DISABLE_JIT is set" if numba.config.DISABLE_JIT else None


def most_workers(num_threads: int) -> int:
    """Threads that can be had."""
    if threads.forked():
        return 1
    most: int = numba.config.NUMBA_NUM_THREADS
    return min(num_threads, most)


def run(twins: Twins, workers: int, *arguments: Any) -> Any:
    """Run a kernel on so many threads, and give what it returns.

    Numba's workqueue layer aborts the process when two threads launch into it together: there,
    one caller at a time gets the parallel twin. No other library that uses the layer is kept out.
    """
    if workers == 1:
        return twins.serial(*arguments)
    before = numba.get_num_threads()  # starts Numba's threads, if nobody has: the layer is known
    if numba.threading_layer() != "workqueue":
        return _on_threads(twins.parallel, workers, before, arguments)
    with threads.only_caller() as alone:
        if alone:
            return _on_threads(twins.parallel, workers, before, arguments)
        return twins.serial(*arguments)


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
