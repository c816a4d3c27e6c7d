"""Gradient and Hessian of the softmax and of the logistic loss, in one pass over the scores."""

from __future__ import annotations

from typing import Any

from fastxent import checks
from fastxent.boosting.passes import logistic_pass, softmax_pass
from fastxent.boosting.rules import logistic_rule, softmax_rule
from fastxent.checks.boosting import (
    check_derivatives_out,
    check_row_scores,
    check_scores,
    check_whole_labels,
)
from fastxent.layout import empty_like
from fastxent.precision import Array

__all__ = ["logistic_gradient_hessian", "softmax_gradient_hessian"]


def softmax_gradient_hessian(
    raw_scores: Any,
    labels: Any,
    *,
    sample_weight: Any = None,
    hessian: str = "exact",
    axis: int = -1,
    out: tuple[Array, Array] | None = None,
    num_threads: int | None = None,
    backend: str | None = None,
) -> tuple[Array, Array]:
    """Gradient and diagonal Hessian of the multiclass log-loss, of each score of each row.

    With p the softmax of a row, y its one-hot label and w its weight the gradient is
    ``w * (p - y)``. Both are those of the sum over the rows, as boosting libraries want them.

    Parameters
    ----------
    raw_scores : array of float32 or float64, shape (N, C)
        Scores (margins) before the softmax, in any memory order: with the classes of a row side by
        side, as XGBoost has them, or the rows of a class, as LightGBM has them. (C, N) with
        ``axis=0``.
    labels : array of shape (N,)
        Whole numbers in ``[0, C)``, stored in any dtype.
    sample_weight : array of shape (N,), optional
        Weight of each row.
    hessian : {"exact", "xgboost", "xgboost-distance", "lightgbm"}
        "exact" is ``w * p * (1 - p)``; "xgboost" ``max(2 * p * (1 - p) * w, 1e-16)``, as
        ``multi:softprob`` of XGBoost 3.2; "xgboost-distance" ``max(|p - y| * w, 1e-16)``, which
        XGBoost's development version takes instead; "lightgbm" ``C / (C - 1) * p * (1 - p) * w``,
        as its ``multiclass``.
    axis : int, default -1
        Where the classes are.
    out : pair of arrays, optional
        Where gradient and Hessian go: like `raw_scores`. The gradient may go over the scores.
    num_threads : int, optional
        At most so many threads.
    backend : str, optional
        The backend to use.

    Returns
    -------
    gradient, hessian : arrays like `raw_scores`, also in memory

    Raises
    ------
    LabelError
        Names the first row whose label is not a whole number in ``[0, C)``.
    ShapeError, DTypeError, OptionError, OutputError
        Of arguments that do not fit, before anything is written.

    Notes
    -----
    A row with a NaN or +inf gets NaN, as does one of nothing but -inf. At the label, where p may be
    almost 1, the difference is taken in float64.

    Examples
    --------
    >>> import numpy as np
    >>> from fastxent.boosting import softmax_gradient_hessian
    >>> gradient, hessian = softmax_gradient_hessian(np.zeros((1, 4)), [2], hessian="lightgbm")
    >>> gradient
    array([[ 0.25,  0.25, -0.75,  0.25]])
    >>> hessian
    array([[0.25, 0.25, 0.25, 0.25]])
    """
    scores, axis = check_scores(raw_scores, axis)
    num_classes, rows = scores.shape[axis], scores.shape[1 - axis]
    rule = softmax_rule(hessian, num_classes)
    labels = check_whole_labels(labels, num_classes, rows)
    weights = checks.check_sample_weight(sample_weight, (rows,))
    grad, hess = _outputs(out, scores, labels, weights)
    softmax_pass(scores, axis, labels, weights, rule, grad, hess, num_threads, backend)
    return grad, hess


def logistic_gradient_hessian(
    raw_scores: Any,
    labels: Any,
    *,
    sample_weight: Any = None,
    hessian: str = "exact",
    out: tuple[Array, Array] | None = None,
    num_threads: int | None = None,
    backend: str | None = None,
) -> tuple[Array, Array]:
    """Gradient and second derivative of the binary log-loss, of each row's score.

    With p the sigmoid of the score, y the label and w the weight the gradient is ``w * (p - y)``.

    Parameters
    ----------
    raw_scores : array of float32 or float64, shape (N,)
        Scores (margins) before the sigmoid.
    labels : array of shape (N,)
        0 or 1, stored in any dtype.
    sample_weight : array of shape (N,), optional
        Weight of each row.
    hessian : {"exact", "xgboost", "xgboost-distance", "lightgbm"}
        "exact" and "lightgbm" are ``w * p * (1 - p)``, the latter LightGBM's ``binary``; "xgboost"
        is ``max(p * (1 - p) * w, 1e-16)``, that of ``binary:logistic`` but for rows of weight 0,
        where XGBoost takes 0; "xgboost-distance" is ``max(|p - y| * w, 1e-16)``.
    out : pair of arrays, optional
        Where gradient and Hessian go: like `raw_scores`. The gradient may go over the scores.
    num_threads : int, optional
        At most so many threads.
    backend : str, optional
        The backend to use.

    Returns
    -------
    gradient, hessian : arrays like `raw_scores`

    Raises
    ------
    LabelError
        Names the first row whose label is neither 0 nor 1.
    ShapeError, DTypeError, OptionError, OutputError
        Of arguments that do not fit, before anything is written.

    Examples
    --------
    >>> import numpy as np
    >>> from fastxent.boosting import logistic_gradient_hessian
    >>> gradient, hessian = logistic_gradient_hessian(np.zeros(2), [0, 1])
    >>> gradient
    array([ 0.5, -0.5])
    >>> hessian
    array([0.25, 0.25])
    """
    scores = check_row_scores(raw_scores)
    rule = logistic_rule(hessian)
    labels = check_whole_labels(labels, 2, len(scores))
    weights = checks.check_sample_weight(sample_weight, scores.shape)
    if weights is not None:
        weights = weights.astype(scores.dtype, copy=False)
    grad, hess = _outputs(out, scores, labels, weights)
    logistic_pass(scores, labels, weights, rule, grad, hess, num_threads, backend)
    return grad, hess


def _outputs(out: Any, scores: Array, labels: Array, weights: Array | None) -> tuple[Array, Array]:
    if out is None:
        return empty_like(scores, scores.dtype), empty_like(scores, scores.dtype)
    return check_derivatives_out(out, scores, {"labels": labels, "sample_weight": weights})
