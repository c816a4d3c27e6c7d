"""A call from its Problem to its results: plan, chunks, reduction, side outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fastxent.backends.contract import Outputs
from fastxent.linear.by_class import RowStatistics, WeightGradByClass
from fastxent.linear.chunks import Chunks
from fastxent.linear.kernel import Kernel
from fastxent.linear.needs import Needs
from fastxent.linear.problem import LinearGrads, LinearProblem
from fastxent.precision import Array
from fastxent.side_outputs import Aux, allocate_aux, finish_aux

if TYPE_CHECKING:
    from fastxent.backends.contract import Backend
    from fastxent.problem import Problem

__all__ = ["loss_grads_and_aux"]

# Labels that are looked up together.
_GROUP = 1 << 14


def loss_grads_and_aux(
    call: LinearProblem, backend: Backend
) -> tuple[Any, LinearGrads, Aux | None]:
    """Compute the call; its labels are checked first, and so is its memory."""
    call.problem = problem = call.problem.with_labels(backend)
    recipe, loss_dtype = problem.reduction, problem.precision.loss
    assert recipe is not None
    grads = call.new_grads()
    needs = Needs.of(call, grads, backend.name)
    nothing_counts = problem.denominator == 0.0
    whole = Outputs()
    target_grad = allocate_aux(problem, whole) if problem.asked else None
    log_prob, labels = whole.log_prob, None
    own_pass = log_prob is not None and problem.soft is not None and not problem.is_bare
    if own_pass:
        whole.log_prob = None
    if "correct" in problem.asked and problem.soft is not None:
        labels = np.empty(problem.rows, np.int64)
    if not nothing_counts:
        if recipe.needs_total_only:
            whole.total = np.empty(1)
        else:
            whole.loss = np.empty(problem.rows, loss_dtype)
    elif target_grad is not None:
        target_grad.array.fill(0)
        whole.target_grad = None
    scaled = not call.grad_filter
    by_class, mass = needs.by_class, None
    if by_class is not None:
        mass = _allocate_statistics(problem, whole)
    kernel = Kernel(call, backend, whole, log_prob if own_pass else None, labels, mass, scaled)
    if nothing_counts:
        for grad in grads:
            if grad is not None:
                grad.fill(0)
    others = grads._replace(linear_weight=None)
    if by_class is not None:
        assert mass is not None
        assert whole.row_max is not None
        assert whole.row_sum is not None
        # a gradient that goes over the hidden rows has to wait for who reads them
        waits = needs.is_over_hidden
        Chunks(call, needs, kernel, LinearGrads() if waits else others).run()
        statistics = RowStatistics(whole.row_max, whole.row_sum, mass)
        WeightGradByClass(call, backend, by_class, needs).run(statistics, grads.linear_weight)
        if waits:
            again = Kernel(call, backend, Outputs(), None, None, None, scaled)
            Chunks(call, needs, again, others).run()
    elif problem.asked or not nothing_counts:
        Chunks(call, needs, kernel, LinearGrads() if nothing_counts else grads).run()
    if nothing_counts:
        loss = recipe.nothing_counted(loss_dtype.type)
    elif whole.loss is None:
        loss = recipe.of_total(kernel.total.value, problem.denominator, loss_dtype.type)
    else:
        loss = recipe.finish(whole.loss, problem.denominator)
    if not problem.asked:
        return loss, grads, None
    return loss, grads, finish_aux(problem, whole, log_prob, target_grad, labels)


def _allocate_statistics(problem: Problem, whole: Outputs) -> Array:
    """Let the first pass keep what a second one needs; the mass of each row."""
    if whole.row_max is None:
        whole.row_max = np.empty(problem.rows, problem.precision.compute)
        whole.row_sum = np.empty(problem.rows)
    mass = np.empty(problem.rows)
    if problem.target is not None:
        mass.fill(problem.background_total)
        if isinstance(problem.spike, np.ndarray):
            for start in range(0, problem.rows, _GROUP):
                labels = problem.target[start : start + _GROUP]
                # those of skipped rows may be no class, and nobody looks at their mass
                mass[start : start + _GROUP] += problem.spike.take(labels, mode="clip")
        else:
            mass += problem.spike
    return mass
