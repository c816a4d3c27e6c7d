"""The rows of a chunk through a backend's verbs: logits in, gradient in their place, statistics."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fastxent import threads
from fastxent.backends.contract import Outputs
from fastxent.linear.problem import LinearProblem
from fastxent.linear.rows import moved_rows, pieces, view_of
from fastxent.precision import Array, kernel_dtype, native, widen

if TYPE_CHECKING:
    from fastxent.backends.contract import Backend

__all__ = ["Kernel"]

# What a row that is skipped holds.
_SKIPPED = {"loss": 0, "row_max": 0, "row_sum": 1, "log_prob": 0, "argmax": -1, "entropy": 0}

# Elements of probabilities that are looked at together for their largest class.
_GROUP = 1 << 16


@dataclass
class Kernel:
    """The forward verb for some rows at a time, its outputs in arrays of all rows.

    Attributes
    ----------
    call : LinearProblem
    backend : Backend
    whole : Outputs
        Arrays of all rows; `grad` is not among them.
    log_prob : array or None
        Of all rows, where it takes a pass of its own.
    labels : (N,) int64 array or None
        Of all rows: the largest class of probabilities, where that is asked for.
    scaled : bool
        Whether the factors of the rows are in the gradient already.
    """

    call: LinearProblem
    backend: Backend
    whole: Outputs
    log_prob: Array | None
    labels: Array | None
    scaled: bool

    def __post_init__(self) -> None:
        problem = self.call.problem
        self.total = 0.0
        self._soft: Array | None = None
        self._soft_dtype: np.dtype[Any] | None = None
        if self.call.soft is not None:
            assert problem.soft_kind is not None
            self._soft = moved_rows(self.call.soft, problem.axis)
            self._soft_dtype = kernel_dtype(native(self._soft.dtype), problem.soft_kind)

    def run(self, start: int, stop: int, live: Array | None, logits: Array, grad: bool) -> None:
        """Compute rows [start, stop), or those of `live` among them; the gradient over logits.

        `logits` has a row for each that is computed.
        """
        if live is not None:
            self._run_live(start, stop, live, logits, grad)
            return
        views = [one for one in (self._soft, self.whole.target_grad) if one is not None]
        for begin, end in pieces(views, start, stop):
            part = logits[begin - start : end - start]
            out = Outputs()
            for name, values in self._rows_of_whole():
                setattr(out, name, values[begin:end])
            if self.whole.target_grad is not None:
                out.target_grad = view_of(self.whole.target_grad, begin, end)
            self._forward(slice(begin, end), part, out, grad)

    def _rows_of_whole(self) -> Iterator[tuple[str, Array]]:
        for name in _SKIPPED:
            values = getattr(self.whole, name)
            if values is not None:
                yield name, values

    def _run_live(self, start: int, stop: int, live: Array, logits: Array, grad: bool) -> None:
        out = Outputs()
        for name, values in self._rows_of_whole():
            setattr(out, name, np.empty(len(live), values.dtype))
        if len(live):
            self._forward(start + live, logits, out, grad)
        for name, values in self._rows_of_whole():
            values[start:stop] = _SKIPPED[name]
            values[start + live] = getattr(out, name)

    def _forward(self, rows: slice | Array, logits: Array, out: Outputs, grad: bool) -> None:
        call, whole = self.call, self.call.problem
        scale = whole.row_scale if self.scaled else 1.0
        problem = replace(
            whole,
            given=logits,
            logits=logits,
            rows=logits.shape[0],
            target=None if whole.target is None else whole.target[rows],
            soft=self._soft_of(rows),
            row_scale=scale[rows] if isinstance(scale, np.ndarray) else scale,
            num_threads=threads.plan(call.num_threads, logits.shape[0], logits.nbytes),
        )
        if self.labels is not None:
            assert problem.soft is not None
            assert problem.soft_kind is not None
            self.labels[rows] = _largest(problem.soft, problem.soft_kind)
        if self.log_prob is not None:
            self.backend.forward(problem.bare(), Outputs(log_prob=self.log_prob[rows]))
        if self.whole.total is not None:
            out.total = np.empty(1)
        if grad:
            out.grad = logits
        self.backend.forward(problem, out)
        if out.total is not None:
            self.total += float(out.total[0])

    def _soft_of(self, rows: slice | Array) -> Array | None:
        """Probabilities of some rows as kernels read them; a copy if the byte order is foreign."""
        if self._soft is None:
            return None
        assert isinstance(rows, slice)
        part = view_of(self._soft, rows.start, rows.stop)
        if not part.dtype.isnative:
            part = np.ascontiguousarray(part, native(part.dtype))
        return part if self._soft_dtype is None else part.view(self._soft_dtype)


def _largest(soft: Array, kind: str) -> Array:
    """The first of the largest probabilities of each row."""
    if soft.ndim > 2:
        return np.concatenate([_largest(one, kind) for one in soft])
    step = max(1, _GROUP // soft.shape[1])
    found = np.empty(len(soft), np.int64)
    for start in range(0, len(soft), step):
        group = slice(start, start + step)
        found[group] = widen(soft[group], kind).argmax(axis=1)
    return found
