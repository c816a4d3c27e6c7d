"""Side outputs: what `aux` asks for beside the loss, allocated before the pass and finished after.

Backends give the row statistics, log_prob, argmax, entropy and target_grad; the others follow from
these here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastxent.backends.contract import Outputs
from fastxent.layout import OutputRows, output_rows, take_rows
from fastxent.precision import Array, kernel_dtype, native, widen

if TYPE_CHECKING:
    from fastxent.backends.contract import Forward
    from fastxent.problem import Problem

__all__ = ["Aux", "allocate_aux", "finish_aux", "loss_and_aux", "lse_of"]

# Elements of the target that are looked at together for its largest class: 1 MB of float32.
_GROUP = 1 << 18


class Aux(NamedTuple):
    """Side outputs of the loss; None for what was not asked.

    Arrays have one entry a row, in the shape of the logits without the class axis; `target_grad`
    has the target's. An ignored row holds 0, no argmax (-1) and False. A row without a softmax (a
    NaN, a +inf, or nothing but -inf) has no argmax either, and NaN for the rest; but the `lse` of
    nothing but -inf is -inf, and `z_loss` the factor times its square.

    Attributes
    ----------
    lse : array of the loss dtype
        Logarithm of the sum of the exponentials of the scaled and capped logits. Beside a +inf it
        is NaN, where `fastxent.logsumexp` is +inf.
    log_prob : array of the loss dtype
        Logarithm of the probability of the label; for probabilities q ``sum_k q[k] * log p[k]``,
        without weights and smoothing.
    argmax : array of int64
        The most probable class, the first of equals.
    correct : array of bool
        Whether that is the label; for probabilities, the first of the largest.
    entropy : array of the loss dtype
        ``-sum_k p[k] * log p[k]``.
    z_loss : array of the loss dtype
        ``z_loss * lse**2``: without weights, and not reduced.
    target_grad : array of the target's dtype, that of the logits for booleans
        Gradient of the loss with respect to probabilities.

    Examples
    --------
    >>> import fastxent as fx
    >>> import numpy as np
    >>> loss, aux = fx.cross_entropy(np.zeros((2, 4)), [0, 1], aux=("argmax", "correct"))
    >>> aux.correct
    array([ True, False])
    >>> aux.lse is None
    True
    """

    lse: Any = None
    log_prob: Any = None
    argmax: Any = None
    correct: Any = None
    entropy: Any = None
    z_loss: Any = None
    target_grad: Any = None


def lse_of(row_max: Array, row_sum: Array) -> Array:
    """L = m + log s of each row, in float64, from what the pass found; s is NaN beside a +inf."""
    with np.errstate(divide="ignore", invalid="ignore"):
        lse: Array = row_max + np.log(row_sum)
    return lse


def loss_and_aux(problem: Problem, backend: Forward, outputs: Outputs) -> tuple[Any, Aux | None]:
    """Run the pass and reduce it; with the side outputs that were asked for, if there are any."""
    if not problem.asked:
        return problem.reduced_loss(backend, outputs), None
    target_grad = allocate_aux(problem, outputs)
    log_prob = outputs.log_prob
    if log_prob is not None and problem.soft is not None and not problem.is_bare:
        # the loss is not that of the bare probabilities; first, as the gradient may go over logits
        backend.forward(problem.bare(), Outputs(log_prob=log_prob))
        outputs.log_prob = None
    if problem.denominator == 0.0:
        grad = outputs.grad
        outputs.grad = outputs.target_grad = None
        backend.forward(problem, outputs)
        aux = finish_aux(problem, outputs, log_prob, target_grad)
        outputs.grad = grad
        if target_grad is not None:
            target_grad.array.fill(0)
        return problem.reduced_loss(backend, outputs), aux
    loss = problem.reduced_loss(backend, outputs)
    return loss, finish_aux(problem, outputs, log_prob, target_grad)


def allocate_aux(problem: Problem, outputs: Outputs) -> OutputRows | None:
    """Put arrays for what was asked into `outputs`; the gradient of the target, if that was."""
    rows, loss = problem.rows, problem.precision.loss
    if not {"lse", "z_loss"}.isdisjoint(problem.asked):
        outputs.row_max = np.empty(rows, problem.precision.compute)
        outputs.row_sum = np.empty(rows)
    if "log_prob" in problem.aux:
        outputs.log_prob = np.empty(rows, loss)
    if "argmax" in problem.aux:
        outputs.argmax = np.empty(rows, np.int64)
    if "entropy" in problem.aux:
        outputs.entropy = np.empty(rows, loss)
    if "target_grad" not in problem.aux:
        return None
    given, kind = problem.given_target, problem.target_grad_kind
    assert given is not None
    assert kind is not None
    dtype = problem.precision.storage if given.dtype == np.bool_ else native(given.dtype)
    target_grad = output_rows(given, problem.axis, None, dtype, kernel_dtype(dtype, kind))
    outputs.target_grad = target_grad.rows
    return target_grad


def finish_aux(
    problem: Problem,
    outputs: Outputs,
    log_prob: Array | None,
    target_grad: OutputRows | None,
    labels: Array | None = None,
) -> Aux:
    """Compute what follows from the backend's outputs; everything in the caller's shapes.

    `labels` are the largest classes of probabilities, where somebody has looked already.
    """
    assert problem.reduction is not None
    shape, loss = problem.reduction.rows_shape, problem.precision.loss
    found: dict[str, Any] = {"log_prob": log_prob, "entropy": outputs.entropy}
    if outputs.row_max is not None and outputs.row_sum is not None:
        lse = lse_of(outputs.row_max, outputs.row_sum)
        with np.errstate(over="ignore", invalid="ignore"):
            found["lse"] = lse.astype(loss)
            found["z_loss"] = (problem.z_loss * lse**2).astype(loss)
    if outputs.argmax is not None:
        found["argmax"] = outputs.argmax
        if "correct" in problem.asked:
            expected = _labels(problem) if labels is None else labels
            found["correct"] = (outputs.argmax >= 0) & (outputs.argmax == expected)
    shaped = {
        name: values.reshape(shape)[()]
        for name, values in found.items()
        if name in problem.asked and values is not None
    }
    if target_grad is not None:
        shaped["target_grad"] = target_grad.deliver()
    return Aux(**shaped)


def _labels(problem: Problem) -> Array:
    """Class index of each row; for probabilities the first of the largest."""
    if problem.target is not None:
        return problem.target
    assert problem.soft is not None
    assert problem.soft_kind is not None
    labels = np.empty(problem.rows, np.int64)
    step = max(1, _GROUP // problem.classes)
    for start in range(0, problem.rows, step):
        group = slice(start, min(start + step, problem.rows))
        labels[group] = widen(take_rows(problem.soft, group), problem.soft_kind).argmax(axis=1)
    return labels
