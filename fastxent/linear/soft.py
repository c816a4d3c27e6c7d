"""Probabilities of any layout, for some rows as kernels read them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from fastxent.linear.rows import moved_rows, view_of
from fastxent.precision import Array, kernel_dtype, native, widen

if TYPE_CHECKING:
    from fastxent.problem import Problem

__all__ = ["SoftRows", "bytes_of_group", "copies_soft"]

# Elements that are looked at together: their copies stay in the cache.
_GROUP = 1 << 14

# Bytes for each: bfloat16 is widened by way of 32-bit integers, and multiplied with factors.
_GROUP_BYTES = 16


def copies_soft(soft: Array | None) -> bool:
    """Whether rows of probabilities have to be copied for a kernel."""
    return soft is not None and not soft.dtype.isnative


def bytes_of_group(problem: Problem) -> int:
    """Bytes of the temporaries with which a group of rows is looked at, at most."""
    elements = max(problem.classes, min(_GROUP, problem.rows * problem.classes))
    return _GROUP_BYTES * elements


class SoftRows:
    """The caller's probabilities.

    Attributes
    ----------
    rows : (rows.., C) array
    """

    def __init__(self, soft: Array, problem: Problem) -> None:
        assert problem.soft_kind is not None
        self._problem, self._kind = problem, problem.soft_kind
        self.rows = moved_rows(soft, problem.axis)
        self._kernel = kernel_dtype(native(soft.dtype), self._kind)

    def of(self, start: int, stop: int, classes: slice = slice(None)) -> Array:
        """Those of a piece of rows: a view, or a copy of a foreign byte order."""
        part = view_of(self.rows, start, stop)[..., classes]
        if not part.dtype.isnative:
            part = np.ascontiguousarray(part, native(part.dtype))
        return part.view(self._kernel)

    def largest(self, soft: Array, into: Array) -> None:
        """Write the first of the largest of each row; `soft` is what `of` gave."""
        for row, place in _groups(soft):
            into[place] = widen(row, self._kind).argmax(axis=1)

    def mass(self, soft: Array, into: Array) -> None:
        """Write the sums of the targets' mass."""
        gain, total = self._problem.gain, self._problem.background_total
        for row, place in _groups(soft):
            values = widen(row, self._kind)
            if gain is not None:
                values = values * gain
            into[place] = values.sum(axis=1, dtype=np.float64) + total


def _groups(soft: Array) -> Iterator[tuple[Array, slice]]:
    """Groups of rows, as matrices, and their places in C order."""
    done = 0
    for index in np.ndindex(soft.shape[:-2]):
        matrix = soft[index]
        step = max(1, _GROUP // matrix.shape[1])
        for start in range(0, len(matrix), step):
            part = matrix[start : start + step]
            yield part, slice(done + start, done + start + len(part))
        done += len(matrix)
