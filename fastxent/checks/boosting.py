"""What boosting libraries hand over: raw scores, labels stored as floating-point numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastxent.checks.axes import check_axis
from fastxent.checks.output import check_out, overlap
from fastxent.checks.reading import as_array, shown
from fastxent.errors import DTypeError, LabelError, OutputError, ShapeError
from fastxent.precision import Array, native

__all__ = ["check_derivatives_out", "check_row_scores", "check_scores", "check_whole_labels"]

_BINARY = "logistic_gradient_hessian takes one score a row"


def _real_scores(value: Any) -> Array:
    scores = as_array(value, "raw_scores")
    if scores.dtype not in (np.float32, np.float64):
        raise DTypeError(
            f"raw_scores has dtype {scores.dtype}: expected float32 or float64 in native byte order"
        )
    return scores


def check_row_scores(value: Any) -> Array:
    """Scores of rows alone."""
    scores = _real_scores(value)
    if scores.ndim != 1:
        raise ShapeError(
            f"raw_scores needs shape (N,), one score a row; it has {shown(scores.shape)}. "
            "softmax_gradient_hessian takes one score a row and class"
        )
    return scores


def check_scores(value: Any, axis: Any) -> tuple[Array, int]:
    """Scores of rows and classes, with the axis of the classes."""
    scores = _real_scores(value)
    if scores.ndim != 2:
        raise ShapeError(
            f"raw_scores needs shape (N, C), or (C, N) with axis=0; it has {shown(scores.shape)}. "
            + _BINARY
        )
    axis = check_axis(axis, scores, "raw_scores")
    if scores.shape[axis] < 2:
        raise ShapeError(
            f"raw_scores has {scores.shape[axis]} classes along axis {axis}, and a softmax needs "
            f"two or more. {_BINARY}"
        )
    return scores, axis


def check_whole_labels(value: Any, num_classes: int, rows: int) -> Array:
    """Class indices as integers, from integers, booleans or floating-point numbers."""
    labels = as_array(value, "labels")
    if labels.dtype.kind not in "fiub":
        raise DTypeError(f"labels has dtype {labels.dtype}: expected integers, stored in any dtype")
    if labels.shape != (rows,):
        raise ShapeError(
            f"labels needs shape ({rows},), one class a row; it has {shown(labels.shape)}"
        )
    if labels.dtype.kind in "iu":
        if rows and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
            _raise_bad_label(labels, (labels < 0) | (labels >= num_classes), num_classes)
        return labels.astype(native(labels.dtype), copy=False)
    # numbers as wide as they must be: the pass over the scores reads them again
    narrow = np.uint8 if num_classes <= 256 else np.int64
    with np.errstate(invalid="ignore"):  # NaN and what does not fit show in the comparison
        whole: Array = labels.astype(narrow)
    good = whole == labels
    if rows and not (good.all() and int(whole.min()) >= 0 and int(whole.max()) < num_classes):
        _raise_bad_label(labels, ~good | (whole < 0) | (whole >= num_classes), num_classes)
    return whole


def _raise_bad_label(labels: Array, bad: Array, num_classes: int) -> None:
    row = int(bad.argmax())
    raise LabelError(
        f"labels[{row}] is {labels[row]}: expected a whole number in [0, {num_classes}) for "
        f"{num_classes} classes"
    )


def check_derivatives_out(
    out: Any, scores: Array, others: dict[str, Array | None]
) -> tuple[Array, Array]:
    """Two arrays like the scores: the gradient's, which may be the scores, and the Hessian's."""
    if not (isinstance(out, tuple | list) and len(out) == 2):
        raise DTypeError("out must be a pair of arrays, (gradient, hessian)")
    grad, hess = out
    check_out(grad, scores, others, scores.shape, scores.dtype, "raw_scores")
    check_out(hess, hess, others, scores.shape, scores.dtype, "raw_scores")
    for name, other in (("raw_scores", scores), ("the gradient's array", grad)):
        if overlap(hess, other):
            raise OutputError(f"out[1] shares memory with {name}, which would be overwritten")
    return grad, hess
