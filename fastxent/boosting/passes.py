"""One pass over checked scores and labels, of many classes and of two."""

from __future__ import annotations

from typing import Any

from fastxent import threads
from fastxent.backends import pick
from fastxent.backends.contract import BinaryOutputs, HessRule, Outputs
from fastxent.binary import BinaryProblem
from fastxent.precision import Array
from fastxent.problem import Problem

__all__ = ["logistic_pass", "softmax_pass"]


def softmax_pass(
    scores: Array,
    axis: int,
    labels: Array,
    weights: Array | None,
    rule: HessRule,
    grad: Array,
    hess: Array,
    num_threads: Any,
    backend: Any,
) -> None:
    """Fill gradient and Hessian; `weights` are float64."""
    problem = Problem.build(
        scores,
        labels,
        axis=axis,
        ignore_index=None,
        reduction="sum",
        num_threads=num_threads,
    )
    chosen = pick(backend, problem)
    problem = problem.with_labels(chosen)
    problem.hess_rule = rule
    if weights is not None:
        problem.row_scale = weights
    of_grad, of_hess = problem.new_output(grad), problem.new_output(hess)
    chosen.forward(problem, Outputs(grad=of_grad.rows, hess=of_hess.rows))


def logistic_pass(
    scores: Array,
    labels: Array,
    weights: Array | None,
    rule: HessRule,
    grad: Array,
    hess: Array,
    num_threads: Any,
    backend: Any,
) -> None:
    """Fill gradient and Hessian; `weights` have the scores' dtype."""
    problem = BinaryProblem(
        logits=scores,
        logits_kind=scores.dtype.name,
        target=labels,
        target_kind=labels.dtype.name,
        compute=scores.dtype,
        ones=1.0,
        factor=1.0 if weights is None else weights,
        upstream=1.0,
        gain=1.0,
        background=0.0,
        num_threads=threads.plan(num_threads, 0, scores.nbytes),
        hess_rule=rule,
    )
    chosen = pick(backend)
    if scores.size:
        chosen.binary(problem, BinaryOutputs(grad=grad, hess=hess))
