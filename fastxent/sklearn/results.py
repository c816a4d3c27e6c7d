"""Where the results of a loss go: the caller's arrays, or new ones, as scikit-learn chooses them.

scikit-learn's boosting keeps scores in float64 and asks for gradients in float32. Kernels write the
dtype that they read, so such results go through a block of scratch that stays in the cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from fastxent import checks
from fastxent.layout import empty_like
from fastxent.precision import Array, native

__all__ = ["Results", "blocks_of"]

# Elements of scratch for each result: 512 KB in float64, half of a usual L2 cache.
_SCRATCH = 1 << 16


def blocks_of(rows: int, width: int, direct: bool) -> Iterator[slice]:
    """All rows at once where kernels write the results themselves, else blocks of rows."""
    size = max(rows, 1) if direct else max(1, _SCRATCH // width)
    for start in range(0, rows, size):
        yield slice(start, min(start + size, rows))


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
    """

    def __init__(self, raw: Array, inputs: dict[str, Any], given: dict[str, Any]) -> None:
        self._raw = raw
        checked: dict[str, Array] = {}
        for name, out in given.items():
            if out is not None:
                shape = raw.shape[:1] if name == "loss_out" else raw.shape
                checked[name] = checks.check_half_output(
                    out, name, shape, {**inputs, **checked}, raw
                )
        dtype = next((array.dtype for array in checked.values()), native(raw.dtype))
        self._arrays = {
            name: checked[name] if name in checked else self._new(name, dtype) for name in given
        }
        self.returned = tuple(
            self._arrays[name] if out is None else out for name, out in given.items()
        )
        self.are_direct = all(
            array.dtype == native(raw.dtype) and (name != "loss_out" or array.flags.c_contiguous)
            for name, array in self._arrays.items()
        )

    def _new(self, name: str, dtype: np.dtype[Any]) -> Array:
        if name == "loss_out":
            return np.empty(self._raw.shape[0], dtype)
        return empty_like(self._raw, dtype)

    def block(self, rows: slice) -> dict[str, Array]:
        """Arrays that a kernel can fill for these rows."""
        if self.are_direct:
            return {name: array[rows] for name, array in self._arrays.items()}
        dtype = native(self._raw.dtype)
        return {name: np.empty_like(array[rows], dtype) for name, array in self._arrays.items()}

    def take(self, rows: slice, filled: dict[str, Array]) -> None:
        """Bring a block to its place, if it is not there."""
        if not self.are_direct:
            with np.errstate(over="ignore"):  # infinite in float32: the caller's numbers
                for name, array in filled.items():
                    self._arrays[name][rows] = array
