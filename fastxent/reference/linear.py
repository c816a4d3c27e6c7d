"""Cross-entropy behind a linear layer: the logits as one matrix, then the loss of these."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from fastxent.reference.cross_entropy import cross_entropy_and_grad, cross_entropy_aux
from fastxent.reference.softmax import classes_back, classes_last

Array = NDArray[Any]


class LinearGradients(NamedTuple):
    """Gradients with respect to the three arrays of the layer."""

    hidden: Array
    linear_weight: Array
    linear_bias: Array


def linear_logits(
    hidden: ArrayLike,
    linear_weight: ArrayLike,
    linear_bias: ArrayLike | None = None,
    *,
    axis: int = -1,
    dtype: DTypeLike = np.float64,
) -> Array:
    """``hidden @ linear_weight.T + linear_bias``, the classes along ``axis``."""
    x, weight = classes_last(hidden, axis, dtype), np.asarray(linear_weight, dtype)
    logits = x @ weight.T
    if linear_bias is not None:
        logits = logits + np.asarray(linear_bias, dtype)
    shape = list(np.shape(hidden))
    shape[axis] = weight.shape[0]
    return classes_back(logits, tuple(shape), axis)


@np.errstate(all="ignore")
def linear_cross_entropy_and_grad(
    hidden: ArrayLike,
    linear_weight: ArrayLike,
    target: ArrayLike,
    *,
    linear_bias: ArrayLike | None = None,
    axis: int = -1,
    dtype: DTypeLike = np.float64,
    **options: Any,
) -> tuple[Array, LinearGradients]:
    """Loss and gradients; the arguments are those of `fastxent.linear_cross_entropy_and_grad`.

    Rows that count for nothing are left out of the sums, whatever they hold.
    """
    logits = linear_logits(hidden, linear_weight, linear_bias, axis=axis, dtype=dtype)
    loss, grad = cross_entropy_and_grad(logits, target, axis=axis, dtype=dtype, **options)
    x, weight = classes_last(hidden, axis, dtype), np.asarray(linear_weight, dtype)
    rows = int(np.prod(x.shape[:-1]))
    dz = classes_last(grad, axis, dtype).reshape(rows, weight.shape[0])
    x = x.reshape(dz.shape[0], weight.shape[1])
    labels, ignored = np.asarray(target), options.get("ignore_index", -100)
    if labels.dtype.kind in "iu" and ignored is not None:
        x = np.where((labels.reshape(-1) == ignored)[:, None], 0, x)
    return loss, LinearGradients(
        classes_back(dz @ weight, np.shape(hidden), axis), dz.T @ x, dz.sum(axis=0)
    )


def linear_cross_entropy_aux(
    hidden: ArrayLike,
    linear_weight: ArrayLike,
    target: ArrayLike,
    *,
    linear_bias: ArrayLike | None = None,
    axis: int = -1,
    dtype: DTypeLike = np.float64,
    **options: Any,
) -> dict[str, Array]:
    """Everything that ``aux`` can ask for, by name."""
    logits = linear_logits(hidden, linear_weight, linear_bias, axis=axis, dtype=dtype)
    return cross_entropy_aux(logits, target, axis=axis, dtype=dtype, **options)
