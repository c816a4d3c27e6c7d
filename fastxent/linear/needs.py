"""What a call has to hold beside its logits, in bytes, and the plan that follows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from fastxent.layout import same_memory
from fastxent.linear.plan import ChunkPlan, ChunkSizes, plan_blocks, plan_chunks
from fastxent.linear.problem import LinearGrads, LinearProblem
from fastxent.linear.products import is_plain
from fastxent.linear.rows import is_blas_matrix, moved_rows
from fastxent.precision import Array

__all__ = ["KernelScratch", "Needs"]

# Objects of Python and the sums of NumPy's buffered loops, whatever the sizes.
_SLACK = 1 << 16

# Bytes for a row of a chunk: its statistics, its label and its place among the rows that count.
_ROW = 96

# Bytes for what a second pass needs of every row.
_STATISTICS = 24

# Sums of the weights' gradient are kept for all classes where that many of them fit.
_SUMS_SHARE = 2

# Labels that are compared together.
_GROUP = 1 << 14


class KernelScratch(NamedTuple):
    """Bytes that a backend's verbs hold of their own.

    Attributes
    ----------
    fixed : int
    per_class_of_row : int
        For each logit.
    """

    fixed: int = 0
    per_class_of_row: int = 0


@dataclass(frozen=True, slots=True)
class Needs:
    """What is copied and what is not, and the chunks.

    Attributes
    ----------
    plan : ChunkPlan
    copies_hidden : bool
        Whether BLAS needs a copy of the hidden rows.
    copies_hidden_grad : bool
        Whether the gradient of the hidden rows is computed in a buffer.
    has_skipped : bool
        Whether there are rows that are skipped.
    has_weight_sums : bool
        Whether the gradient of the weights is added up in memory of the call.
    by_class : ChunkPlan or None
        Blocks of classes and chunks of rows of a second pass, for the gradient of the weights.
    first_rows : int
        How many rows have their logits in the memory of the weights' gradient; 0 for none.
    """

    plan: ChunkPlan
    copies_hidden: bool
    copies_hidden_grad: bool
    has_skipped: bool
    has_weight_sums: bool
    by_class: ChunkPlan | None
    first_rows: int

    @classmethod
    def of(cls, call: LinearProblem, grads: LinearGrads, kernel_scratch: KernelScratch) -> Needs:
        """Look at the arrays, and check that the budget is enough."""
        problem, dtype = call.problem, call.problem.precision.compute
        has_skipped = _has_skipped(problem.target, problem.skip)
        reads = _is_direct(moved_rows(call.hidden, problem.axis), dtype)
        copies_hidden = has_skipped or not reads
        copies_grad = over = False
        if grads.hidden is not None:
            over = same_memory(grads.hidden, call.hidden)
            writes = _is_direct(moved_rows(grads.hidden, problem.axis), dtype)
            copies_grad = has_skipped or not writes or (over and call.grad_filter > 0)
        held = _Held(call, grads, copies_hidden, copies_grad, kernel_scratch)
        rows, classes = problem.rows, problem.classes
        sizes = call.features, classes, dtype.itemsize, call.memory_budget
        plan = plan_chunks(rows, *sizes, held.sizes())
        narrow = grads.linear_weight is not None and grads.linear_weight.dtype != dtype
        has_sums, by_class = False, None
        if narrow and plan.count > 1 and problem.denominator != 0.0:
            sums = classes * call.features * dtype.itemsize
            has_sums = plan.budget >= _SUMS_SHARE * sums + held.sizes().fixed
            if has_sums:
                plan = plan_chunks(rows, *sizes, held.sizes(sums))
            else:
                first = replace(held, grads=grads._replace(linear_weight=None))
                plan = plan_chunks(rows, *sizes, first.sizes(_STATISTICS * rows))
                by_class = plan_blocks(rows, classes, plan.budget, held.sizes_by_class())
        first_rows = 0
        if (
            grads.linear_weight is not None
            and is_blas_matrix(grads.linear_weight, dtype)
            and is_blas_matrix(call.weight, dtype)
            and grads.linear_weight.strides[1] == dtype.itemsize
            and not (copies_hidden or over or call.grad_filter)
            and problem.denominator != 0.0
            and min(rows, call.features) >= 2 * plan.rows
        ):
            first_rows = min(rows, call.features)
        return cls(plan, copies_hidden, copies_grad, has_skipped, has_sums, by_class, first_rows)


@dataclass(frozen=True, slots=True)
class _Held:
    """Everything that is held beside the logits."""

    call: LinearProblem
    grads: LinearGrads
    copies_hidden: bool
    copies_hidden_grad: bool
    scratch: KernelScratch

    def sizes(self, weight_sums: int = 0) -> ChunkSizes:
        """Bytes; `weight_sums` of them for the gradient of the weights."""
        call, grads, problem = self.call, self.grads, self.call.problem
        item, features = problem.precision.compute.itemsize, call.features
        row, filtered = features * item, call.grad_filter > 0
        widens = not is_blas_matrix(call.weight, problem.precision.compute)
        per_row = _ROW + row * (self.copies_hidden + self.copies_hidden_grad)
        adds_hidden_parts = grads.hidden is not None and (widens or filtered)
        per_row += row * adds_hidden_parts + self._soft_row()
        per_class = row * (widens + (grads.linear_weight is not None))
        per_pair = 0
        if filtered:
            per_class += 2 * row
            per_pair = item
        return ChunkSizes(
            fixed=_SLACK + weight_sums + self._of_rows() + self._of_classes() + self.scratch.fixed,
            per_row=per_row + self.scratch.per_class_of_row * problem.classes,
            per_class=per_class,
            per_pair=per_pair,
        )

    def sizes_by_class(self) -> ChunkSizes:
        """Bytes of the pass that takes blocks of classes first."""
        call, problem = self.call, self.call.problem
        item = problem.precision.compute.itemsize
        row, filtered = call.features * item, call.grad_filter > 0
        soft = call.soft
        copied = 0 if soft is None or soft.dtype.isnative else soft.itemsize
        sums = _STATISTICS * problem.rows
        return ChunkSizes(
            fixed=_SLACK + sums + self._of_rows() + self._of_classes() + self.scratch.fixed,
            per_row=_ROW + row * self.copies_hidden,
            per_class=row * (3 + filtered),
            per_pair=item * (1 + filtered) + copied,
        )

    def _soft_row(self) -> int:
        """Bytes of a row of probabilities that have to be copied."""
        soft = self.call.soft
        if soft is None or soft.dtype.isnative:
            return 0
        return self.call.problem.classes * soft.itemsize

    def _of_rows(self) -> int:
        """Bytes of what is kept of every row, apart from results."""
        problem = self.call.problem
        recipe = problem.reduction
        assert recipe is not None
        per_row = 0
        if not recipe.needs_total_only:
            per_row += problem.precision.loss.itemsize
        if recipe.row_weight is not None or isinstance(recipe.grad_output, np.ndarray):
            per_row += 3 * 8
        if problem.asked:
            per_row += 6 * 8
        if problem.target is not None:
            per_row += problem.target.itemsize
        return per_row * problem.rows

    def _of_classes(self) -> int:
        """Bytes of what is kept of every class, apart from logits and results."""
        call, grads, problem = self.call, self.grads, self.call.problem
        dtype = problem.precision.compute
        per_class = 0
        for factor in (problem.spike, problem.background, problem.gain):
            if isinstance(factor, np.ndarray):
                per_class += 8 + factor.itemsize
        if call.bias is not None and not is_plain(call.bias, dtype):
            per_class += dtype.itemsize
        if grads.linear_bias is not None:
            per_class += dtype.itemsize * (1 + (not is_plain(grads.linear_bias, dtype)))
        if call.grad_filter:
            per_class += 2 + np.dtype(np.intp).itemsize
        return per_class * problem.classes


def _is_direct(rows: Array, dtype: np.dtype[Any]) -> bool:
    return rows.ndim == 2 and is_blas_matrix(rows, dtype)


def _has_skipped(target: Array | None, skip: int | None) -> bool:
    if target is None or skip is None:
        return False
    groups = range(0, len(target), _GROUP)
    return any(bool((target[at : at + _GROUP] == skip).any()) for at in groups)
