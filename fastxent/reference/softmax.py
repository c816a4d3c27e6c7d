"""Softmax, its logarithm, its normaliser, and the Jacobian products of the first two."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

Array = NDArray[Any]
Axes = int | Sequence[int] | None


@np.errstate(all="ignore")
def softmax(x: ArrayLike, axis: Axes = -1, dtype: DTypeLike = np.float64) -> Array:
    """exp(x) / sum(exp(x)) over the axes; NaN where that has a NaN, a +inf or only -inf."""
    z = classes_last(x, axis, dtype)
    exps = np.exp(z - z.max(axis=-1, keepdims=True))
    return classes_back(exps / exps.sum(axis=-1, keepdims=True), np.shape(x), axis)


@np.errstate(all="ignore")
def log_softmax(x: ArrayLike, axis: Axes = -1, dtype: DTypeLike = np.float64) -> Array:
    """log(softmax(x)) over the axes, finite where softmax underflows; NaN as in `softmax`.

    SciPy's differs beside a +inf: it gives -inf for the finite entries of such a row.
    """
    z = classes_last(x, axis, dtype)
    shifted = z - z.max(axis=-1, keepdims=True)
    result = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return classes_back(result, np.shape(x), axis)


@np.errstate(all="ignore")
def logsumexp(x: ArrayLike, axis: Axes = -1, dtype: DTypeLike = np.float64) -> Array:
    """log(sum(exp(x))) over the axes; -inf where all are -inf, +inf with a +inf, NaN with a NaN."""
    z = classes_last(x, axis, dtype)
    maximum = z.max(axis=-1)
    maximum = np.where(np.isfinite(maximum), maximum, 0)
    return np.asarray(maximum + np.log(np.exp(z - maximum[..., None]).sum(axis=-1)))


@np.errstate(all="ignore")
def softmax_backward(
    p: ArrayLike, grad_p: ArrayLike, axis: Axes = -1, dtype: DTypeLike = np.float64
) -> Array:
    """Gradient in x from p = softmax(x) and the gradient in p: p * (grad_p - <grad_p, p>)."""
    proba, upstream = classes_last(p, axis, dtype), classes_last(grad_p, axis, dtype)
    inner = (upstream * proba).sum(axis=-1, keepdims=True)
    return classes_back(proba * (upstream - inner), np.shape(p), axis)


@np.errstate(all="ignore")
def log_softmax_backward(
    log_p: ArrayLike, grad: ArrayLike, axis: Axes = -1, dtype: DTypeLike = np.float64
) -> Array:
    """Gradient in x from log_p = log_softmax(x) and that in log_p: grad - p * sum(grad)."""
    log_proba, upstream = classes_last(log_p, axis, dtype), classes_last(grad, axis, dtype)
    total = upstream.sum(axis=-1, keepdims=True)
    return classes_back(upstream - np.exp(log_proba) * total, np.shape(log_p), axis)


def classes_last(x: ArrayLike, axis: Axes, dtype: DTypeLike) -> Array:
    """Move the axes to the end and make one of them.

    Contiguous, because only along contiguous memory does NumPy add pairwise: a plain sum over
    1,030 classes on axis 0 put the float64 gradient 23 machine epsilons off.
    """
    array = np.asarray(x, dtype)
    axes = _axes(axis, array.ndim)
    moved = np.moveaxis(array, axes, range(array.ndim - len(axes), array.ndim))
    leading = moved.shape[: array.ndim - len(axes)]
    classes = np.prod(moved.shape[len(leading) :], dtype=int)
    return np.ascontiguousarray(moved.reshape(*leading, classes))


def classes_back(result: Array, shape: tuple[int, ...], axis: Axes) -> Array:
    """Undo `classes_last`: an array of the shape that came in."""
    axes = _axes(axis, len(shape))
    leading = [size for at, size in enumerate(shape) if at not in axes]
    split = result.reshape(*leading, *(shape[at] for at in axes))
    return np.moveaxis(split, range(len(leading), len(shape)), axes)


def _axes(axis: Axes, ndim: int) -> list[int]:
    if axis is None:
        return list(range(ndim))
    return [at % ndim for at in ([axis] if isinstance(axis, int) else axis)]
