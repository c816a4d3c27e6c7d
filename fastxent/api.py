"""The public functions: docstring, `Problem.build`, pick a backend, run, reduce."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastxent import checks
from fastxent.backends import pick
from fastxent.backends.contract import Outputs
from fastxent.layout import output_rows, vector_of
from fastxent.precision import Array
from fastxent.problem import Problem, representable
from fastxent.shortcut import are_defaults, mean_loss

__all__ = [
    "check_labels",
    "cross_entropy",
    "cross_entropy_and_grad",
    "log_softmax",
    "logsumexp",
    "softmax",
]


def cross_entropy(
    logits: Any,
    target: Any,
    *,
    weight: Any = None,
    ignore_index: int | None = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    normalizer: float | None = None,
    sample_weight: Any = None,
    axis: int = -1,
    all_ignored: str = "nan",
    backend: str | None = None,
    num_threads: int | None = None,
) -> Any:
    """Cross-entropy between the softmax of logits and a target.

    Parameters
    ----------
    logits : array_like of float32 or float64
        Unnormalised scores; C classes along `axis`, every other position is a row. 1-D logits are
        one row. A logit of -inf masks its class. They are never modified.
    target : array_like
        Integers of any dtype: class indices, shape of `logits` without `axis`. float32, float64
        or bool: probabilities, shape of `logits`; rows need not sum to one.
    weight : array_like of shape (C,), optional
        Class weights, finite and not negative.
    ignore_index : int or None, default -100
        Rows with this label count for nothing and their logits are not read. None turns this off.
        Probabilities have no labels: with them a value of 0 or more is an error.
    label_smoothing : float, default 0.0
        Share, in [0, 1], of each row's target mass that is spread evenly over all classes.
    reduction : {"mean", "sum", "none"}, default "mean"
        The mean divides by the summed class weights (and sample weights) of the counted rows for
        class indices, and by the number (or sample weights) of rows for probabilities, as
        PyTorch does. "none" gives one loss a row.
    normalizer : float, optional
        Replaces the denominator of the mean, as for gradient accumulation; finite and not
        negative. An error with another reduction.
    sample_weight : array_like, shape of `logits` without `axis`, optional
        Factor of each row's loss, finite and not negative; weight 2 equals the row twice. A row
        whose loss is infinite or NaN makes a sum NaN even with weight 0.
    axis : int, default -1
        Where the classes are. Any but the last goes through a copy of the logits.
    all_ignored : {"nan", "zero"}, default "nan"
        Loss of a mean whose denominator is 0; its gradient is 0 in either case.
    backend : {"cython", "numba", "numpy"}, optional
        By default the first of `fastxent.backends()` that can run.
    num_threads : int, optional
        At least 1; by default `fastxent.get_num_threads()`, fewer for small arrays.

    Returns
    -------
    numpy scalar or array
        In the dtype of `logits`; for ``reduction="none"`` of the shape of `logits` without `axis`.

    Raises
    ------
    LabelError
        A class index is outside [0, C) and not `ignore_index`. Also an ``IndexError``.
    ShapeError, OptionError
        A shape or a value does not fit. Also a ``ValueError``.
    BackendError
        The backend asked for cannot run here. Also a ``ValueError``.
    DTypeError
        A dtype that is not computed with. Also a ``TypeError``.

    Notes
    -----
    For a row with class index y, ``loss = -w[y] * log(softmax(logits)[y])``; with smoothing
    e, ``(1 - e)`` of that plus ``-e / C * sum_k w[k] * log(softmax(logits)[k])`` [1]_. A class
    without target mass contributes 0 even where its logit is -inf. A NaN or +inf logit, or a row
    of nothing but -inf, makes the loss of that row NaN.

    References
    ----------
    .. [1] C. Szegedy et al., "Rethinking the Inception Architecture for Computer Vision",
       https://arxiv.org/abs/1512.00567, section 7.

    Examples
    --------
    >>> import fastxent as fx
    >>> import numpy as np
    >>> logits = np.array([[2.0, 1.0, 0.1], [0.1, 2.0, 1.9]])
    >>> fx.cross_entropy(logits, [1, 0], reduction="none").round(3)
    array([1.417, 2.62 ])
    >>> round(float(fx.cross_entropy(logits, [1, 0])), 3)
    2.019
    """
    if are_defaults(
        weight, label_smoothing, reduction, normalizer, sample_weight, axis, all_ignored
    ):
        plain = mean_loss(logits, target, ignore_index, backend, num_threads, False)
        if plain is not None:
            return plain[0]
    problem = Problem.build(
        logits,
        target,
        weight=weight,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        reduction=reduction,
        normalizer=normalizer,
        sample_weight=sample_weight,
        axis=axis,
        all_ignored=all_ignored,
        num_threads=num_threads,
    )
    chosen = pick(backend, problem)
    problem, denominator = problem.with_labels(chosen)
    return problem.reduced_loss(chosen, Outputs(), denominator)


def cross_entropy_and_grad(
    logits: Any,
    target: Any,
    *,
    weight: Any = None,
    ignore_index: int | None = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    normalizer: float | None = None,
    sample_weight: Any = None,
    axis: int = -1,
    all_ignored: str = "nan",
    backend: str | None = None,
    num_threads: int | None = None,
    grad_output: Any = None,
    out: Array | None = None,
) -> tuple[Any, Array]:
    """Cross-entropy and its gradient with respect to the logits, in one pass.

    Parameters
    ----------
    logits, target, weight, ignore_index, label_smoothing, reduction, normalizer, sample_weight, \
axis, all_ignored, backend, num_threads
        As in `cross_entropy`.
    grad_output : float or array_like of the shape of `logits` without `axis`, optional
        Upstream gradient: multiplies the gradient, not the loss.
    out : numpy.ndarray, optional
        Where the gradient goes: an array of the shape and dtype of `logits`. ``out=logits``
        writes it over the logits. A buffer used again saves the first touch of fresh memory.

    Returns
    -------
    loss : numpy scalar or array
        As from `cross_entropy`, bit for bit.
    grad : numpy.ndarray
        In the shape and dtype of `logits`; `out` if it was given. That of ``reduction="none"``
        is the gradient of the sum of the rows' losses. Ignored rows hold 0.

    Raises
    ------
    LabelError, ShapeError, OptionError, DTypeError, BackendError
        As in `cross_entropy`.
    OutputError
        `out` is read-only, or overlaps an input without being exactly the logits. Also a
        ``ValueError``. Nothing has been written to `out` when any of these is raised.

    Notes
    -----
    With T the target mass of a row (1 without weights), ``grad = T * softmax(logits) - t``,
    times sample weight and upstream gradient, over the denominator of the mean. For plain class
    indices this is (softmax - Y) / N.

    Examples
    --------
    >>> import fastxent as fx
    >>> import numpy as np
    >>> logits = np.array([[2.0, 1.0, 0.1], [0.1, 2.0, 1.9]])
    >>> loss, grad = fx.cross_entropy_and_grad(logits, [1, 0])
    >>> grad.round(2)
    array([[ 0.33, -0.38,  0.05],
           [-0.46,  0.24,  0.22]])
    >>> loss, grad = fx.cross_entropy_and_grad(logits, [1, 0], out=logits)
    >>> grad is logits
    True
    """
    if grad_output is None and are_defaults(
        weight, label_smoothing, reduction, normalizer, sample_weight, axis, all_ignored
    ):
        plain = mean_loss(logits, target, ignore_index, backend, num_threads, True, out)
        if plain is not None:
            return plain
    problem = Problem.build(
        logits,
        target,
        weight=weight,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        reduction=reduction,
        normalizer=normalizer,
        sample_weight=sample_weight,
        axis=axis,
        all_ignored=all_ignored,
        num_threads=num_threads,
        grad_output=grad_output,
        out=out,
    )
    chosen = pick(backend, problem)
    problem, denominator = problem.with_labels(chosen)
    grad = output_rows(problem.given, problem.axis, out)
    loss = problem.reduced_loss(chosen, Outputs(grad=grad.rows), denominator)
    return loss, grad.deliver()


def softmax(
    x: Any,
    axis: int = -1,
    *,
    out: Array | None = None,
    backend: str | None = None,
    num_threads: int | None = None,
) -> Array:
    """Softmax along one axis: ``exp(x) / sum(exp(x))``, without overflow.

    Parameters
    ----------
    x : array_like of float32 or float64
    axis : int, default -1
        Any but the last goes through a copy.
    out : numpy.ndarray, optional
        Where the result goes: shape and dtype of `x`; ``out=x`` is allowed.
    backend, num_threads
        As in `cross_entropy`.

    Returns
    -------
    numpy.ndarray
        Shape and dtype of `x`. NaN where a slice holds a NaN, +inf, or nothing but -inf.

    Raises
    ------
    ShapeError, DTypeError, OptionError, OutputError, BackendError
        As in `cross_entropy_and_grad`.

    Examples
    --------
    >>> import fastxent as fx
    >>> fx.softmax([2.0, 1.0, 0.1]).round(3)
    array([0.659, 0.242, 0.099])
    """
    problem = Problem.of_array(x, axis, num_threads, out)
    result = output_rows(problem.given, problem.axis, out)
    pick(backend, problem).softmax(problem, Outputs(proba=result.rows))
    return result.deliver()


def log_softmax(
    x: Any,
    axis: int = -1,
    *,
    out: Array | None = None,
    backend: str | None = None,
    num_threads: int | None = None,
) -> Array:
    """Logarithm of the softmax along one axis: ``x - logsumexp(x)``.

    Parameters
    ----------
    x, axis, out, backend, num_threads
        As in `softmax`.

    Returns
    -------
    numpy.ndarray
        Shape and dtype of `x`.

    Raises
    ------
    ShapeError, DTypeError, OptionError, OutputError, BackendError
        As in `cross_entropy_and_grad`.

    Examples
    --------
    >>> import fastxent as fx
    >>> fx.log_softmax([1000.0, 0.0])
    array([    0., -1000.])
    """
    problem = Problem.of_array(x, axis, num_threads, out)
    result = output_rows(problem.given, problem.axis, out)
    pick(backend, problem).softmax(problem, Outputs(log_proba=result.rows))
    return result.deliver()


def logsumexp(
    x: Any, axis: int = -1, *, backend: str | None = None, num_threads: int | None = None
) -> Any:
    """Logarithm of the sum of exponentials along one axis, without overflow.

    Parameters
    ----------
    x, axis, backend, num_threads
        As in `softmax`.

    Returns
    -------
    numpy scalar or array
        Shape of `x` without `axis`, dtype of `x`. -inf where every entry is -inf.

    Raises
    ------
    ShapeError, DTypeError, OptionError, BackendError
        As in `cross_entropy`.

    Examples
    --------
    >>> import fastxent as fx
    >>> import numpy as np
    >>> round(float(fx.logsumexp(np.array([1000.0, 1000.0]))), 3)
    1000.693
    """
    problem = Problem.of_array(x, axis, num_threads)
    rows = problem.logits
    row_max = np.empty(len(rows), problem.precision.compute)
    row_sum = np.empty(len(rows), np.float64)
    pick(backend, problem).softmax(problem, Outputs(row_max=row_max, row_sum=row_sum))
    with np.errstate(divide="ignore", invalid="ignore"):
        lse = row_max + np.log(row_sum)
    infinite = np.isposinf(row_max)
    if infinite.any():
        # s is NaN for a row with +inf, with or without a NaN beside it
        lse[infinite] = np.where(np.isnan(rows[infinite]).any(axis=1), np.nan, np.inf)
    shape = problem.given.shape[: problem.axis] + problem.given.shape[problem.axis + 1 :]
    return lse.astype(problem.precision.loss).reshape(shape)[()]


def check_labels(target: Any, num_classes: int, ignore_index: int | None = -100) -> None:
    """Raise for the first class index that is neither in ``[0, C)`` nor ignored.

    Parameters
    ----------
    target : array_like of integers
        Class indices, of any shape.
    num_classes : int
        C, at least 1.
    ignore_index : int or None, default -100
        The label that is allowed besides; None for no such label.

    Raises
    ------
    LabelError
        Names the place, the label and C. Also an ``IndexError``.
    DTypeError
        `target` is not an array of integers. Also a ``TypeError``.

    Examples
    --------
    >>> import fastxent as fx
    >>> fx.check_labels([0, 2, -100], 3)
    >>> fx.check_labels([0, 3], 3)
    Traceback (most recent call last):
        ...
    fastxent.errors.LabelError: target[1] is 3: it lies outside [0, 3) for C = 3 classes and is \
not ignore_index = -100
    """
    labels = checks.check_class_indices(target)
    num_classes = checks.check_num_classes(num_classes)
    skip = checks.check_ignore_index(ignore_index, labels)
    flat = vector_of(labels)
    skip = representable(skip, flat.dtype)
    summary = pick(None).check_labels(flat, num_classes, skip, None, None, 1)
    if summary.bad_row >= 0:
        checks.raise_bad_label(labels, summary.bad_row, num_classes, skip)
