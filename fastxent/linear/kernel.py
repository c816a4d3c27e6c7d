"""The rows of a chunk through a backend's verbs: logits in, gradient in their place, statistics."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from fastxent import threads
from fastxent.backends.contract import Outputs
from fastxent.linear.problem import LinearProblem
from fastxent.linear.rows import pieces, view_of
from fastxent.linear.soft import SoftRows
from fastxent.long_sum import LongSum
from fastxent.precision import Array

if TYPE_CHECKING:
    from fastxent.backends.contract import Backend

__all__ = ["Kernel"]

# What a row that is skipped holds.
_SKIPPED = {"loss": 0, "row_max": 0, "row_sum": 1, "log_prob": 0, "argmax": -1, "entropy": 0}


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
    mass : (N,) float64 array or None
        Of all rows: the sums of the mass of probabilities, where they are asked for.
    scaled : bool
        Whether the factors of the rows are in the gradient already.
    """

    call: LinearProblem
    backend: Backend
    whole: Outputs
    log_prob: Array | None
    labels: Array | None
    mass: Array | None
    scaled: bool

    def __post_init__(self) -> None:
        self.total = LongSum()
        self.most_threads = 1
        self.soft: SoftRows | None = None
        if self.call.soft is not None:
            self.soft = SoftRows(self.call.soft, self.call.problem)

    def run(self, start: int, stop: int, live: Array | None, logits: Array, grad: bool) -> None:
        """Compute rows [start, stop), or those of `live` among them; the gradient over logits.

        `logits` has a row for each that is computed.
        """
        if live is not None:
            self._run_live(start, stop, live, logits, grad)
            return
        views = [] if self.soft is None else [self.soft.rows]
        if self.whole.target_grad is not None:
            views.append(self.whole.target_grad)
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
        soft: Array | None = None
        if self.soft is not None:
            assert isinstance(rows, slice)
            soft = self.soft.of(rows.start, rows.stop)
            if self.labels is not None:
                self.soft.largest(soft, self.labels[rows])
            if self.mass is not None:
                self.soft.mass(soft, self.mass[rows])
        planned = threads.plan(call.num_threads, logits.shape[0], logits.nbytes)
        problem = replace(
            whole,
            given=logits,
            logits=logits,
            rows=logits.shape[0],
            target=None if whole.target is None else whole.target[rows],
            soft=soft,
            row_scale=_some(whole.row_scale, rows) if self.scaled else 1.0,
            num_threads=threads.at_most(planned, self.most_threads),
        )
        if self.log_prob is not None:
            self.backend.forward(problem.bare(), Outputs(log_prob=self.log_prob[rows]))
        if out.target_grad is not None and not self.scaled:
            of_target = replace(problem, row_scale=_some(whole.row_scale, rows))
            self.backend.forward(of_target, Outputs(target_grad=out.target_grad))
            out.target_grad = None
        if self.whole.total is not None:
            out.total = np.empty(1)
        if grad:
            out.grad = logits
        self.backend.forward(problem, out)
        if out.total is not None:
            self.total.add(float(out.total[0]))


def _some(scale: float | Array, rows: slice | Array) -> float | Array:
    """Factors of some rows, or the one of all."""
    return scale[rows] if isinstance(scale, np.ndarray) else scale
