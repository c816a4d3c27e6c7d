"""Textbook softmax and cross-entropy: the truth that every backend is tested against.

Everything is computed from the public arguments by the formulas of a textbook, on full
(N, C) matrices, and shares no code with the rest of the package, so that an error in the
package's algebra cannot hide in both. Clarity before speed, and no checking of arguments.

``dtype`` is the precision to compute in. float64 is the truth; float32 shows the error of a
naive implementation, from which the tests take their tolerances.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

Array = NDArray[Any]


@np.errstate(all="ignore")
def softmax(x: ArrayLike, axis: int = -1, dtype: DTypeLike = np.float64) -> Array:
    """exp(x) / sum(exp(x)) along an axis; NaN where that has a NaN, a +inf or only -inf."""
    z = _classes_last(x, axis, dtype)
    exps = np.exp(z - z.max(axis=-1, keepdims=True))
    return np.moveaxis(exps / exps.sum(axis=-1, keepdims=True), -1, axis)


@np.errstate(all="ignore")
def log_softmax(x: ArrayLike, axis: int = -1, dtype: DTypeLike = np.float64) -> Array:
    """log(softmax(x)) along an axis, finite where softmax underflows; NaN as in `softmax`.

    SciPy's differs beside a +inf: it gives -inf for the finite entries of such a row.
    """
    z = _classes_last(x, axis, dtype)
    shifted = z - z.max(axis=-1, keepdims=True)
    return np.moveaxis(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)), -1, axis)


@np.errstate(all="ignore")
def logsumexp(x: ArrayLike, axis: int = -1, dtype: DTypeLike = np.float64) -> Array:
    """log(sum(exp(x))) along an axis; -inf where all are -inf, +inf with a +inf, NaN with a NaN."""
    z = _classes_last(x, axis, dtype)
    maximum = z.max(axis=-1)
    maximum = np.where(np.isfinite(maximum), maximum, 0)
    return np.asarray(maximum + np.log(np.exp(z - maximum[..., None]).sum(axis=-1)))


def _classes_last(x: ArrayLike, axis: int, dtype: DTypeLike) -> Array:
    # Contiguous, because only along contiguous memory does NumPy add pairwise: a plain sum over
    # 1,030 classes on axis 0 put the float64 gradient 23 machine epsilons off.
    return np.ascontiguousarray(np.moveaxis(np.asarray(x, dtype), axis, -1))


def cross_entropy(logits: ArrayLike, target: ArrayLike, **options: Any) -> Array:
    """Cross-entropy loss alone; the arguments are those of `cross_entropy_and_grad`."""
    return cross_entropy_and_grad(logits, target, **options)[0]


@np.errstate(all="ignore")
def cross_entropy_and_grad(
    logits: ArrayLike,
    target: ArrayLike,
    *,
    weight: ArrayLike | None = None,
    ignore_index: int | None = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    normalizer: float | None = None,
    sample_weight: ArrayLike | None = None,
    axis: int = -1,
    all_ignored: str = "nan",
    dtype: DTypeLike = np.float64,
    grad_output: ArrayLike | None = None,
) -> tuple[Array, Array]:
    """Cross-entropy loss and its gradient with respect to the logits.

    The arguments are those of `fastxent.cross_entropy_and_grad`, and ``dtype``. The loss is
    0-d, or with ``reduction="none"`` of the logits' shape without ``axis``; the gradient has
    the logits' shape.
    """
    x = _classes_last(logits, axis, dtype)
    labels = np.asarray(target)
    *row_shape, C = x.shape
    N = int(np.prod(row_shape))
    w = np.ones(C, dtype) if weight is None else np.asarray(weight, dtype)
    s = np.ones(N, dtype) if sample_weight is None else np.asarray(sample_weight, dtype).reshape(N)

    # q: the label as a distribution. A hard label is the one-hot row of its class.
    hard = labels.dtype.kind in "iu"
    live = np.ones(N, bool)
    if hard:
        q = np.asarray(np.arange(C) == labels.reshape(N, 1), dtype)
        if ignore_index is not None:
            live = labels.reshape(N) != ignore_index
    else:
        q = _classes_last(labels, axis, dtype).reshape(N, C)

    # t: the target mass that each row puts on each class. Ignored rows are not looked at.
    smoothed = (1 - label_smoothing) * q + label_smoothing / C
    t = np.where(live[:, None], w * smoothed, 0)
    z = np.where(live[:, None], x.reshape(N, C), 0)

    # A class without mass adds nothing, whatever its log-probability (0 * -inf is no NaN);
    # but a row that has no softmax has no loss either.
    lp = log_softmax(z, dtype=dtype)
    row_loss = -np.where(t == 0, 0, t * lp).sum(axis=1)
    row_loss[np.isnan(lp).any(axis=1)] = np.nan
    grad = t.sum(axis=1, keepdims=True) * softmax(z, dtype=dtype) - t

    row_loss = np.where(live, s * row_loss, 0)
    upstream = np.ones(N, dtype)
    if grad_output is not None:
        upstream = np.broadcast_to(np.asarray(grad_output, dtype), row_shape).reshape(N)
    grad = np.where(live[:, None], (upstream * s)[:, None] * grad, 0)

    loss = row_loss.reshape(row_shape) if reduction == "none" else row_loss.sum()
    if reduction == "mean":
        if normalizer is not None:
            denominator = np.asarray(normalizer, dtype)
        elif hard:
            denominator = ((q * w).sum(axis=1) * s)[live].sum()
        else:
            denominator = s.sum()
        if denominator == 0:
            loss, grad = np.asarray(np.nan, dtype), np.zeros_like(z)
            if all_ignored == "zero":
                loss = np.zeros_like(loss)
        else:
            loss, grad = loss / denominator, grad / denominator
    return np.asarray(loss), np.moveaxis(grad.reshape(*row_shape, C), -1, axis)
