"""The rows of a chunk: which of them count, their hidden vectors, the gradients of these."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fastxent.linear.buffers import Buffers
from fastxent.linear.problem import LinearProblem
from fastxent.linear.rows import moved_rows, read_rows, runs, write_rows
from fastxent.precision import Array, kind_of

__all__ = ["HiddenGrad", "HiddenRows"]


class HiddenRows:
    """Hidden vectors as BLAS reads them: where they lie, or in a copy of a chunk.

    Attributes
    ----------
    rows : (rows.., D) array
        The caller's.
    """

    def __init__(self, call: LinearProblem, has_skipped: bool, copies: bool) -> None:
        self._problem, self._has_skipped, self._copies = call.problem, has_skipped, copies
        self.rows = moved_rows(call.hidden, call.problem.axis)
        self._kind = kind_of(self.rows.dtype)

    def live(self, start: int, stop: int) -> Array | None:
        """Which rows count, from `start`; None where all do."""
        problem = self._problem
        if not self._has_skipped:
            return None
        assert problem.target is not None
        is_live = problem.target[start:stop] != problem.skip
        return None if is_live.all() else np.flatnonzero(is_live)

    def read(self, start: int, stop: int, live: Array | None, buffers: Buffers) -> Array:
        """Matrix of the rows that count."""
        if not self._copies:
            return self.rows[start:stop]
        assert self._kind is not None
        count = stop - start if live is None else len(live)
        copied = buffers.of_rows("hidden", count, self.rows.shape[-1])
        for begin, end, at in _stretches(start, stop, live):
            read_rows(self.rows, self._kind, begin, end, copied[at : at + end - begin])
        return copied


class HiddenGrad:
    """The gradient of the hidden vectors: computed in place, or in a buffer and then rounded."""

    def __init__(self, grad: Array, axis: int, is_buffered: bool, buffers: Buffers) -> None:
        self._rows, self._buffers = moved_rows(grad, axis), buffers
        self._kind = kind_of(grad.dtype)
        self.is_buffered = is_buffered

    def place(self, start: int, stop: int, count: int) -> Array:
        """Where the gradient of the rows that count is to be computed."""
        if not self.is_buffered:
            return self._rows[start:stop]
        return self._buffers.of_rows("hidden grad", count, self._rows.shape[-1])

    def deliver(self, start: int, stop: int, live: Array | None, values: Array) -> None:
        """Take what was computed in `place`; zeros for rows that do not count."""
        if not self.is_buffered:
            return
        assert self._kind is not None
        done = start
        for begin, end, at in _stretches(start, stop, live):
            self._clear(done, begin)
            write_rows(values[at : at + end - begin], self._rows, self._kind, begin, end)
            done = end
        self._clear(done, stop)

    def _clear(self, start: int, stop: int) -> None:
        for _, _, index in runs(self._rows.shape[:-1], start, stop):
            self._rows[index] = 0


def _stretches(start: int, stop: int, live: Array | None) -> Iterator[tuple[int, int, int]]:
    """Rows side by side among those that count: from, to, and how many came before."""
    if live is None:
        yield start, stop, 0
        return
    if not len(live):
        return
    cuts = np.flatnonzero(np.diff(live) > 1) + 1
    firsts = [0, *cuts.tolist()]
    for at, until in zip(firsts, [*firsts[1:], len(live)], strict=True):
        yield start + int(live[at]), start + int(live[until - 1]) + 1, at
