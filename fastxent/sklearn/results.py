"""Where the results of a loss go, and the threads that fill them.

scikit-learn's boosting keeps scores in float64 and asks for gradients in float32. Kernels write the
dtype that they read, so such results go through a block of scratch that stays in the cache.

Threads are Python's, each with its own rows, and not those of OpenMP: scikit-learn brings an OpenMP
runtime of its own, and the idle threads of either hold for a while the cores that the other needs.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from fastxent.checks.half_losses import check_half_output
from fastxent.layout import empty_like
from fastxent.precision import Array, native

__all__ = ["Results"]

# Elements of a block of scratch, 512 KB in float64: half of a usual L2 cache.
_SCRATCH = 1 << 16

# Elements of a block that is written in place, and those that a thread must have to be worth its
# start, some 50 us: a pass takes from 0.4 to 5 ns an element.
_BLOCK = 1 << 18
_PER_THREAD = 1 << 17


class Results:
    """Arrays for the results of one call, some of them the caller's.

    Parameters
    ----------
    raw : array
        Scores, checked; a result is laid out as they are, or has one number a row.
    inputs : dict
        The other arrays of the call, which no result may share memory with.
    given : dict
        For each result its array, or None for a new one, by the name of the argument. A new one
        has the dtype of the first that was given, else that of the scores.

    Attributes
    ----------
    returned : tuple of array
        What the caller gets.
    """

    def __init__(self, raw: Array, inputs: dict[str, Any], given: dict[str, Any]) -> None:
        self._raw = raw
        self._width = max(1, raw[:1].size)
        checked: dict[str, Array] = {}
        for name, out in given.items():
            if out is not None:
                others = {**inputs, **checked}
                checked[name] = check_half_output(out, name, self._shape(name), others, raw)
        dtype = next((array.dtype for array in checked.values()), native(raw.dtype))
        self._arrays = {
            name: checked[name] if name in checked else self._new(name, dtype) for name in given
        }
        self.returned = tuple(self._arrays.values())
        self._are_direct = all(
            array.dtype == native(raw.dtype) and (name != "loss_out" or array.flags.c_contiguous)
            for name, array in self._arrays.items()
        )

    def _shape(self, name: str) -> tuple[int, ...]:
        return self._raw.shape[:1] if name == "loss_out" else self._raw.shape

    def _new(self, name: str, dtype: np.dtype[Any]) -> Array:
        if name == "loss_out":
            return np.empty(self._shape(name), dtype)
        return empty_like(self._raw, dtype)

    def fill(self, compute: Callable[[slice, dict[str, Array]], None], num_threads: int) -> None:
        """Call `compute` with blocks of rows and the arrays that a kernel can fill for them."""
        workers = max(1, min(num_threads, self._raw.size // _PER_THREAD))
        rows = len(self._raw)
        size = rows
        if not self._are_direct:
            size = min(rows, max(1, _SCRATCH // self._width))
        elif workers > 1:
            size = max(1, _BLOCK // self._width)
        starts = iter(range(0, rows, max(1, size)))  # one iterator that all threads take from

        def work() -> None:
            scratch = None if self._are_direct else self._scratch(size)
            for start in starts:
                block = slice(start, min(start + size, rows))
                places = {name: array[block] for name, array in self._arrays.items()}
                if scratch is None:
                    compute(block, places)
                    continue
                filled = {name: array[: block.stop - start] for name, array in scratch.items()}
                compute(block, filled)
                with np.errstate(over="ignore"):  # infinite in float32: the caller's numbers
                    for name, place in places.items():
                        place[...] = filled[name]

        if workers == 1:
            work()
            return
        with ThreadPoolExecutor(workers - 1) as pool:
            others = [pool.submit(work) for _ in range(workers - 1)]
            work()
        for other in others:
            other.result()

    def _scratch(self, size: int) -> dict[str, Array]:
        """Rows in the dtype that kernels write, laid out as the results that they are for."""
        dtype = native(self._raw.dtype)
        return {name: np.empty_like(array[:size], dtype) for name, array in self._arrays.items()}
