"""Binary cross-entropy of logits: each element is a class of its own, there or not there."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

Array = NDArray[Any]


def binary_cross_entropy_with_logits(logits: ArrayLike, target: ArrayLike, **options: Any) -> Array:
    """Loss alone; the arguments are those of `binary_cross_entropy_with_logits_and_grad`."""
    return binary_cross_entropy_with_logits_and_grad(logits, target, **options)[0]


@np.errstate(all="ignore")
def binary_cross_entropy_with_logits_and_grad(
    logits: ArrayLike,
    target: ArrayLike,
    *,
    weight: ArrayLike | None = None,
    pos_weight: ArrayLike | None = None,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    dtype: DTypeLike = np.float64,
    grad_output: ArrayLike | None = None,
) -> tuple[Array, Array]:
    """Binary cross-entropy and its gradient with respect to the logits.

    An element costs ``w * -(pos_weight * y * log sigmoid(x) + (1 - y) * log sigmoid(-x))``, where
    a factor of 0 costs nothing, whatever the logarithm (0 * -inf is no NaN). The mean is over all
    elements, NaN if there are none.
    """
    x = np.asarray(logits, dtype)
    y = np.asarray(target, dtype)  # integers and booleans are 0 and 1
    w = np.ones((), dtype) if weight is None else np.asarray(weight, dtype)
    factor = np.ones((), dtype) if pos_weight is None else np.asarray(pos_weight, dtype)
    label_smoothing = float(label_smoothing)  # 1 minus a float32 is rounded to float32
    y = y * (1 - label_smoothing) + label_smoothing / 2

    # log sigmoid(x) = min(x, 0) - log(1 + exp(-|x|)): an exponential that cannot overflow
    small = np.exp(-np.abs(x))
    log_yes = np.minimum(x, 0) - np.log1p(small)
    log_no = np.minimum(-x, 0) - np.log1p(small)
    yes, no = factor * y, 1 - y
    cost = np.where(yes == 0, 0, yes * -log_yes) + np.where(no == 0, 0, no * -log_no)
    loss = w * np.where(np.isnan(x), np.nan, cost)

    # sigmoid(x) - y without weights; 1 - sigmoid(x) is sigmoid(-x), which keeps its digits
    sigmoid = np.where(x < 0, small, 1) / (1 + small)
    sigmoid_of_minus = np.where(x < 0, 1, small) / (1 + small)
    upstream = np.ones((), dtype) if grad_output is None else np.asarray(grad_output, dtype)
    grad = upstream * w * (no * sigmoid - yes * sigmoid_of_minus)
    if reduction == "mean":
        return np.asarray(loss.sum() / x.size), grad / x.size
    return np.asarray(loss.sum() if reduction == "sum" else loss), grad


@np.errstate(all="ignore")
def binary_hessian(
    logits: ArrayLike,
    target: ArrayLike,
    kind: str = "product",
    factor: float = 1.0,
    floor: float = 0.0,
    *,
    weight: ArrayLike | None = None,
    dtype: DTypeLike = np.float64,
) -> tuple[Array, Array]:
    """Probabilities s = sigmoid(x), and for each the second derivative of its loss.

    With "product" that is ``s * (1 - s)``, with "distance" ``|s - y|``; times ``factor`` and the
    weight, but never below ``floor``.
    """
    x = np.asarray(logits, dtype)
    y = np.asarray(target, dtype)
    w = np.ones((), dtype) if weight is None else np.asarray(weight, dtype)
    sigmoid, of_minus = 1 / (1 + np.exp(-x)), 1 / (1 + np.exp(x))
    distance = np.abs((1 - y) * sigmoid - y * of_minus)
    share = sigmoid * of_minus if kind == "product" else distance
    return sigmoid, np.maximum(w * factor * share, floor)
