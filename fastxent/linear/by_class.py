"""The gradient of weights that are stored in fewer bits than are computed with, block by block.

Sums over several chunks of rows have to be added up in the dtype that computes, and for all
classes at once they are twice the weights' own size or more. So they are made for a block of
classes at a time, after the pass that found the statistics of the rows: the logits of the block
are computed once more, and its sums are rounded once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from fastxent import threads
from fastxent.linear.buffers import Buffers
from fastxent.linear.factors import row_factors
from fastxent.linear.hidden import HiddenRows
from fastxent.linear.kept import KeptClasses
from fastxent.linear.needs import Needs
from fastxent.linear.plan import ChunkPlan
from fastxent.linear.problem import LinearProblem
from fastxent.linear.products import Bias, Weights, class_blocks
from fastxent.linear.rows import pieces, write
from fastxent.linear.soft import SoftRows
from fastxent.precision import Array, kind_of

if TYPE_CHECKING:
    from fastxent.backends.contract import Backend
    from fastxent.problem import Problem

__all__ = ["RowStatistics", "WeightGradByClass"]


@dataclass
class RowStatistics:
    """What the first pass found of every row.

    Attributes
    ----------
    row_max : (N,) array of the dtype that computes
    row_sum : (N,) float64 array
    mass : (N,) float64 array
        The whole mass of each row's target.
    """

    row_max: Array
    row_sum: Array
    mass: Array


class WeightGradByClass:
    """The second pass.

    Parameters
    ----------
    call : LinearProblem
    backend : Backend
        One that has the verb `partial_backward`.
    plan : ChunkPlan
        Rows and classes of a chunk of this pass.
    needs : Needs
    """

    def __init__(
        self,
        call: LinearProblem,
        backend: Backend,
        plan: ChunkPlan,
        needs: Needs,
    ) -> None:
        self._call, self._backend, self._plan = call, backend, plan
        self._buffers = Buffers(call.problem.precision.compute, plan.rows, plan.block)
        self._rows = HiddenRows(call, needs.has_skipped, needs.copies_hidden)
        self._bias = Bias(call.bias, None, self._buffers)
        self._most_threads = needs.most_threads
        self._soft = None if call.soft is None else SoftRows(call.soft, call.problem)
        self._weights = Weights(call.weight, self._buffers)
        self._kept: KeptClasses | None = None
        if call.grad_filter:
            self._kept = KeptClasses(call.grad_filter, self._buffers)

    def run(self, statistics: RowStatistics, grad: Array) -> None:
        """Fill the gradient of the weights."""
        kind = kind_of(grad.dtype)
        assert kind is not None
        rows, step = self._call.problem.rows, self._plan.rows
        with np.errstate(all="ignore"):
            for block in class_blocks(len(grad), self._plan.block):
                size = block.stop - block.start
                sums = self._buffers.of_classes("sums", size, grad.shape[1])
                if self._kept is not None:
                    sums.fill(0)
                weights = self._weights.of(block)
                for start in range(0, rows, step):
                    stop = min(start + step, rows)
                    self._chunk(block, weights, start, stop, statistics, sums)
                write(sums, grad[block], kind)

    def _chunk(
        self,
        block: slice,
        weights: Array,
        start: int,
        stop: int,
        statistics: RowStatistics,
        sums: Array,
    ) -> None:
        """Add what a chunk of rows gives to the sums of a block of classes."""
        live = self._rows.live(start, stop)
        hidden = self._rows.read(start, stop, live, self._buffers)
        logits = self._buffers.of_pairs("logits", len(hidden), len(weights))
        np.matmul(hidden, weights.T, out=logits)
        self._bias.add_to(logits, block)
        if len(hidden):
            self._grad_over(logits, block, start, stop, live, statistics)
        if self._kept is not None:
            kept = self._kept.classes(logits)
            scale = row_factors(self._call, start, stop, live)
            part = self._buffers.of_classes("part", len(kept), hidden.shape[1])
            np.matmul(self._kept.columns(logits, kept, scale).T, hidden, out=part)
            np.add(sums[kept], part, out=part)
            sums[kept] = part
        elif start == 0:
            np.matmul(logits.T, hidden, out=sums)
        else:
            part = self._buffers.of_classes("part", len(weights), hidden.shape[1])
            np.matmul(logits.T, hidden, out=part)
            np.add(sums, part, out=sums)

    def _grad_over(
        self,
        logits: Array,
        block: slice,
        start: int,
        stop: int,
        live: Array | None,
        statistics: RowStatistics,
    ) -> None:
        """Write the gradient of the logits over them."""
        if live is not None:
            self._backward(logits, block, start + live, None, statistics)
        elif self._soft is None:
            self._backward(logits, block, slice(start, stop), None, statistics)
        else:
            for begin, end in pieces([self._soft.rows], start, stop):
                soft = self._soft.of(begin, end, block)
                part = logits[begin - start : end - start]
                self._backward(part, block, slice(begin, end), soft, statistics)

    def _backward(
        self,
        logits: Array,
        block: slice,
        rows: slice | Array,
        soft: Array | None,
        statistics: RowStatistics,
    ) -> None:
        whole = self._call.problem
        scale = 1.0 if self._kept is not None else whole.row_scale
        planned = threads.plan(self._call.num_threads, len(logits), logits.nbytes)
        problem: Problem = replace(
            whole,
            given=logits,
            logits=logits,
            rows=len(logits),
            classes=logits.shape[1],
            class_offset=block.start,
            target=None if whole.target is None else whole.target[rows],
            soft=soft,
            background=_of(whole.background, block),
            gain=_of(whole.gain, block),
            row_scale=scale[rows] if isinstance(scale, np.ndarray) else scale,
            num_threads=threads.at_most(planned, self._most_threads),
        )
        self._backend.partial_backward(
            problem,
            statistics.row_max[rows].astype(np.float64),
            statistics.row_sum[rows],
            statistics.mass[rows],
            logits,
        )


def _of(factor: float | Array | None, block: slice) -> float | Array | None:
    return factor[block] if isinstance(factor, np.ndarray) else factor
