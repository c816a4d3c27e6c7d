"""What the machine can do at most: the copy limit and the arithmetic ceiling.

Copy limit: a plain copy that touches the same bytes on the same threads. Arithmetic ceiling: the
kernel on a block that stays in the L2 cache of one core, where memory costs nothing, as the slope
between two sizes, so that what every call costs drops out; all threads together are taken to be
that much faster. Whichever takes longer is the lower ceiling: nobody can be faster. Classes on
axis 1 have the copy limit alone: a block in cache would be another shape.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

import fastxent as fx
from fastxent.bench.timer import Call
from fastxent.bench.workloads import HALVES, Workload, aligned, arrays, dtype_of
from fastxent.precision import Array

__all__ = [
    "COPY",
    "COPY_IN_PLACE",
    "COPY_ON_ONE_THREAD",
    "Slope",
    "copies",
    "is_copy",
    "slopes",
    "why_no_copies",
]

COPY, COPY_IN_PLACE, COPY_ON_ONE_THREAD = "copy", "copy in place", "copy x1"

# Logits of the two blocks. With its gradient the larger one takes half of an L2 cache of 1 MB.
BLOCK_BYTES = (64 * 1024, 256 * 1024)
REPEATS = 15


def is_copy(name: str) -> bool:
    """Whether a timing is that of a copy, and not of somebody's loss."""
    return name.startswith(COPY)


def why_no_copies() -> str | None:
    """Why the copy limit cannot be measured: it needs Numba."""
    return fx.backends()["numba"]


def copies(workload: Workload) -> dict[str, Call]:
    """Give the copies to time: into another array, and in place."""
    from fastxent.bench import copying

    logits, target = (_numbers(array) for array in arrays(workload))
    output, scratch = aligned(logits), aligned(logits)
    threads = workload.threads
    if workload.reads_target:
        return {
            COPY: Call(copying.copy_two(logits, target, output, threads)),
            COPY_IN_PLACE: Call(copying.copy_two(scratch, target, scratch, threads)),
        }
    calls = {
        COPY: Call(copying.copy(logits, output, threads)),
        COPY_IN_PLACE: Call(copying.copy_in_place(scratch, threads)),
    }
    if threads > 1:
        calls[COPY_ON_ONE_THREAD] = Call(copying.copy(logits, output, 1))
    return calls


def _numbers(array: Array) -> Array:
    """Half precision as integers, for Numba has no such numbers on a CPU."""
    return array.view(np.int16) if array.dtype.name in HALVES else array


class Slope:
    """Best time of a backend's kernel on two blocks in cache; the slope is its arithmetic.

    The row keeps its number of classes as long as the small block holds one; longer ones are cut.
    """

    def __init__(self, backend: str, workload: Workload) -> None:
        self._threads = workload.threads
        self._elements: list[int] = []
        self._best: list[float] = []
        self._runs: list[Callable[[], object]] = []
        itemsize = dtype_of(workload.dtype).itemsize
        for block_bytes in BLOCK_BYTES:
            fit = block_bytes // itemsize
            classes = min(workload.classes, BLOCK_BYTES[0] // itemsize)
            rows = max(1, fit // classes)
            self._elements.append(rows * classes)
            self._best.append(np.inf)
            self._runs.append(_block_call(backend, workload, rows, classes))

    def __call__(self) -> None:
        """Time both blocks some times, and keep the best."""
        for at, run in enumerate(self._runs):
            run()
            for _ in range(REPEATS):
                start = time.perf_counter()
                run()
                self._best[at] = min(self._best[at], time.perf_counter() - start)

    def seconds(self, elements: int) -> float:
        """Time that so many elements take on all threads, if memory costs nothing."""
        slope = (self._best[1] - self._best[0]) / (self._elements[1] - self._elements[0])
        return slope * elements / self._threads


def _block_call(backend: str, workload: Workload, rows: int, classes: int) -> Callable[[], object]:
    logits, target = arrays(workload)
    at = np.arange(rows) % len(logits)
    options: dict[str, Any] = {"backend": backend, "num_threads": 1}
    if workload.operation == "binary":
        block, labels = logits[at], target[at]
        options["out"] = np.zeros_like(block)
        return lambda: fx.binary_cross_entropy_with_logits_and_grad(block, labels, **options)
    block = np.ascontiguousarray(logits[at, :classes])
    options["out"] = np.zeros_like(block)
    if not workload.has_loss:
        softmax = fx.softmax if workload.operation == "softmax" else fx.log_softmax
        return lambda: softmax(block, **options)
    labels = np.ascontiguousarray(
        target[at] % classes if target.ndim == 1 else target[at, :classes]
    )
    return lambda: fx.cross_entropy_and_grad(block, labels, **options)


def slopes(workload: Workload) -> dict[str, Slope]:
    """Give a slope for each compiled backend that can run this."""
    found: dict[str, Slope] = {}
    for name in () if workload.shape else ("cython", "numba"):
        slope = Slope(name, workload)
        try:
            slope()  # compiles
        except fx.BackendError:
            continue
        found[name] = slope
    return found
