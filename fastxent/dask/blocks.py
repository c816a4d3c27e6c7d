"""What is computed in one block of rows: module-level functions, so that processes can get them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastxent.backends import pick
from fastxent.backends.contract import Backend, Outputs
from fastxent.checks import check_normalizer, check_sample_weight
from fastxent.checks.dask import labels_counted_from
from fastxent.long_sum import LongSum
from fastxent.options import Options
from fastxent.precision import Array
from fastxent.problem import Problem
from fastxent.side_outputs import Aux, loss_and_aux

__all__ = [
    "Result",
    "Settings",
    "added",
    "mass_of_block",
    "mean",
    "one_entry",
    "result_of_block",
    "taken",
    "whole",
]


class Settings(NamedTuple):
    """What all blocks of a call share.

    Attributes
    ----------
    options : Options
        As the caller gave them, checked; without `sample_weight` and `normalizer`, which come with
        the blocks.
    backend : str
    num_threads : int or None
    wants_grad : bool
    """

    options: Options
    backend: str
    num_threads: int | None
    wants_grad: bool


class Result(NamedTuple):
    """What one pass over a block gives.

    Attributes
    ----------
    loss : array of the rows' shape, a number for one row
        For ``reduction="none"``.
    total : float64 array with one entry and as many dimensions as the rows
        Otherwise: sum of the losses, not divided, not rounded to the loss dtype.
    grad : array of the block's shape, or None
    aux : Aux or None
    """

    loss: Any
    total: Array | None
    grad: Array | None
    aux: Aux | None


def whole(block: Any) -> Any:
    """The one block along the axis of the classes, which dask hands over in a list."""
    return block[0] if isinstance(block, list) else block


def _with_labels(problem: Problem, backend: Backend, place: tuple[slice, ...]) -> Problem:
    """Check the labels; an error names the row as the whole array counts it."""
    assert problem.given_target is not None
    with labels_counted_from(problem.given_target, place, problem.classes, problem.skip):
        return problem.with_labels(backend)


def one_entry(number: float, dimensions: int) -> Array:
    """One number, in an array of so many dimensions."""
    return np.full((1,) * dimensions, number)


def mass_of_block(
    target: Array,
    sample_weight: Array | None,
    place: tuple[slice, ...],
    settings: Settings,
    num_classes: int,
) -> Array:
    """What the targets of a block add to the mean's denominator; their labels are checked."""
    if target.dtype.kind not in "iu":  # probabilities: a row counts with its weight
        assert sample_weight is not None
        check_sample_weight(sample_weight, sample_weight.shape)
        return one_entry(float(np.sum(sample_weight, dtype=np.float64)), sample_weight.ndim)
    # the logits are not looked at for this
    logits = np.broadcast_to(np.zeros((), np.float32), (*target.shape, num_classes))
    plain = Options(
        weight=settings.options.weight,
        ignore_index=settings.options.ignore_index,
        sample_weight=sample_weight,
    )
    problem = Problem.of_options(logits, target, plain, settings.num_threads)
    problem = _with_labels(problem, pick(settings.backend, problem), place)
    return one_entry(problem.denominator, target.ndim)


def result_of_block(
    logits: Any,
    target: Any,
    sample_weight: Array | None,
    grad_output: Any,
    denominator: Any,
    place: tuple[slice, ...],
    settings: Settings,
) -> Result:
    """One pass over the rows of a block."""
    logits, target = whole(logits), whole(target)
    options = settings.options._replace(sample_weight=sample_weight)
    if options.reduction == "mean":
        options = options._replace(normalizer=float(denominator))
    problem = Problem.of_options(logits, target, options, settings.num_threads, grad_output)
    backend = pick(settings.backend, problem)
    problem = _with_labels(problem, backend, place)
    grad = problem.new_output(None) if settings.wants_grad else None
    outputs = Outputs(grad=None if grad is None else grad.rows)
    loss, aux = loss_and_aux(problem, backend, outputs)
    made = None if grad is None else grad.deliver()
    assert problem.reduction is not None
    dimensions = len(problem.reduction.rows_shape)
    if options.reduction == "none":
        return Result(loss, None, made, aux)
    return Result(None, one_entry(_total(problem, outputs), dimensions), made, aux)


def _total(problem: Problem, outputs: Outputs) -> float:
    """Sum of the rows' losses, as the pass left it: in float64."""
    assert problem.reduction is not None
    if problem.denominator == 0.0:
        return 0.0
    if outputs.total is not None:
        return float(outputs.total[0])
    assert outputs.loss is not None
    assert problem.reduction.row_weight is not None
    with np.errstate(all="ignore"):
        return float(np.sum(outputs.loss * problem.reduction.row_weight, dtype=np.float64))


def taken(result: Result, name: str) -> Any:
    """One of the results of a block."""
    return getattr(result.aux if name in Aux._fields else result, name)


def added(numbers: Array, axis: tuple[int, ...] = (), keepdims: bool = False, **_: Any) -> Any:
    """Sum of float64 numbers over all axes, as a step of a reduction of dask."""
    value = np.float64(LongSum(numbers.reshape(-1).tolist()).value)
    return np.full((1,) * numbers.ndim, value) if keepdims else value


def mean(total: Any, denominator: Any, all_ignored: str, dtype: np.dtype[Any]) -> Any:
    """The loss, from the sum of the losses of all rows."""
    check_normalizer(denominator, "mean")
    divisor = float(denominator)
    if divisor == 0.0:
        return dtype.type(0.0 if all_ignored == "zero" else np.nan)
    with np.errstate(all="ignore"):
        return dtype.type(np.float64(total) / divisor)
