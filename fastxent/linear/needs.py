"""What a call has to hold beside its logits, in bytes, and the plan that follows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fastxent.layout import same_memory
from fastxent.linear.decision import (
    SLACK,
    STATISTICS,
    CallSizes,
    bytes_of_row,
    decide,
    scratch_of_others,
)
from fastxent.linear.plan import ChunkPlan, ChunkSizes, plan_chunks
from fastxent.linear.problem import LinearGrads, LinearProblem
from fastxent.linear.products import is_plain
from fastxent.linear.rows import ROUNDING_BYTES, is_blas_matrix, moved_rows
from fastxent.linear.scratch import scratch_of_columns, scratch_of_thread
from fastxent.linear.soft import bytes_of_group, copies_soft
from fastxent.precision import Array, kind_of

__all__ = ["Needs"]

# Labels that are compared together.
_GROUP = 1 << 14


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
    is_over_hidden : bool
        Whether that gradient goes over the hidden rows themselves.
    has_skipped : bool
        Whether there are rows that are skipped.
    has_weight_sums : bool
        Whether the gradient of the weights is added up in memory of the call.
    by_class : ChunkPlan or None
        Blocks of classes and chunks of rows of a second pass, for the gradient of the weights.
    most_threads : int
        Threads whose scratch memory the budget holds.
    first_rows : int
        How many rows have their logits in the memory of the weights' gradient; 0 for none.
    most_threads_of_first : int
        Threads whose scratch memory the budget holds with these.
    """

    plan: ChunkPlan
    copies_hidden: bool
    copies_hidden_grad: bool
    is_over_hidden: bool
    has_skipped: bool
    has_weight_sums: bool
    by_class: ChunkPlan | None
    most_threads: int
    first_rows: int
    most_threads_of_first: int

    @classmethod
    def of(cls, call: LinearProblem, grads: LinearGrads, backend_name: str) -> Needs:
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
        held = _Held(call, grads, copies_hidden, copies_grad, backend_name)
        sizes = held.call_sizes(over)
        budget, reserve = call.memory_budget, scratch_of_others(call.memory_budget, sizes.scratch)
        shape = sizes.rows, sizes.features, sizes.width, sizes.itemsize
        found = decide(
            sizes, lambda of_pass: plan_chunks(*shape, budget, of_pass, reserve, sizes.least)
        )
        return cls(
            plan=found.plan,
            copies_hidden=copies_hidden,
            copies_hidden_grad=copies_grad,
            is_over_hidden=over,
            has_skipped=has_skipped,
            has_weight_sums=found.has_weight_sums,
            by_class=found.by_class,
            most_threads=found.most_threads,
            first_rows=found.first_rows,
            most_threads_of_first=found.most_threads_of_first,
        )


@dataclass(frozen=True, slots=True)
class _Held:
    """Everything that is held beside the logits."""

    call: LinearProblem
    grads: LinearGrads
    copies_hidden: bool
    copies_hidden_grad: bool
    backend_name: str

    def sizes(self, more: int = 0) -> ChunkSizes:
        """Bytes; `more` of them, whatever the chunks."""
        call, grads, problem = self.call, self.grads, self.call.problem
        item, features = problem.precision.compute.itemsize, call.features
        row, filtered = features * item, call.grad_filter > 0
        widens = not is_blas_matrix(call.weight, problem.precision.compute)
        per_row = bytes_of_row(problem.classes) + row * (
            self.copies_hidden + self.copies_hidden_grad
        )
        adds_hidden_parts = grads.hidden is not None and (widens or filtered)
        per_row += row * adds_hidden_parts + self._soft_row()
        per_class = row * (widens + (grads.linear_weight is not None))
        per_pair = 0
        if filtered:
            per_class += 2 * row
            per_pair = item
        return ChunkSizes(
            fixed=self._fixed() + more,
            per_row=per_row,
            per_class=per_class,
            per_pair=per_pair,
        )

    @property
    def scratch_of_thread(self) -> int:
        """Bytes of the backend's own for one thread, which there are always."""
        return scratch_of_thread(self.backend_name, self.call.problem)

    def call_sizes(self, is_over_hidden: bool) -> CallSizes:
        """What the decisions for all adapters are made from."""
        call, problem, into = self.call, self.call.problem, self.grads.linear_weight
        dtype = problem.precision.compute
        return CallSizes(
            rows=problem.rows,
            features=call.features,
            width=problem.classes,
            itemsize=dtype.itemsize,
            losses=problem.rows,
            of_pass=self.sizes,
            of_blocks=self.sizes_by_class(),
            is_narrow=into is not None and into.dtype != dtype,
            is_empty=problem.denominator == 0.0,
            may_lie_in_grad=into is not None
            and is_blas_matrix(into, dtype)
            and is_blas_matrix(call.weight, dtype)
            and into.strides[1] == dtype.itemsize
            and not (self.copies_hidden or is_over_hidden or call.grad_filter),
            scratch=self.scratch_of_thread,
            scratch_of_columns=scratch_of_columns(self.backend_name, problem),
        )

    def sizes_by_class(self) -> ChunkSizes:
        """Bytes of the pass that takes blocks of classes first."""
        call, problem = self.call, self.call.problem
        item = problem.precision.compute.itemsize
        row, filtered = call.features * item, call.grad_filter > 0
        copied = call.soft.itemsize if call.soft is not None and copies_soft(call.soft) else 0
        return ChunkSizes(
            fixed=self._fixed() + STATISTICS * problem.rows,
            per_row=bytes_of_row(problem.classes) + row * self.copies_hidden,
            per_class=row * (3 + filtered),
            per_pair=item * (1 + filtered) + copied,
        )

    def _fixed(self) -> int:
        """Bytes that do not depend on the chunks."""
        rounds = any(one is not None and kind_of(one.dtype) == "bfloat16" for one in self.grads)
        fixed = SLACK + ROUNDING_BYTES * rounds + self.scratch_of_thread
        if self._looks_at_soft():
            fixed += bytes_of_group(self.call.problem)
        return fixed + self._of_rows() + self._of_classes()

    def _looks_at_soft(self) -> bool:
        """Whether probabilities are read outside of kernels: their largest class, their mass."""
        problem, weight = self.call.problem, self.grads.linear_weight
        has_mass = weight is not None and weight.dtype != problem.precision.compute
        return self.call.soft is not None and (has_mass or "correct" in problem.asked)

    def _soft_row(self) -> int:
        """Bytes of a row of probabilities that have to be copied."""
        soft = self.call.soft
        if soft is None or not copies_soft(soft):
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
