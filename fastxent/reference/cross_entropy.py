"""Cross-entropy of class indices or probabilities, with every option, its gradient, its asides."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from fastxent.reference.softmax import classes_back, classes_last, log_softmax, logsumexp, softmax

Array = NDArray[Any]


@dataclass
class Rows:
    """The public arguments, a row of the matrices for every position.

    Attributes
    ----------
    z : (N, C) array
        Scaled and capped logits; 0 in ignored rows, which nobody looks at.
    slope : (N, C) array
        dz/dx.
    q : (N, C) array
        The label as a distribution. A hard label is the one-hot row of its class.
    mass : (N, C) array
        Weighted and smoothed label: what the loss multiplies -log p by. 0 in ignored rows.
    target_slope : (C,) array
        dmass/dq.
    factor : (N,) array
        Weight of each row's loss; 0 for ignored rows.
    upstream : (N,) array
        Gradient of whatever comes after the loss.
    denominator : 0-d array or None
        What the sum over the rows is divided by, if by anything.
    """

    hard: bool
    shape: tuple[int, ...]
    live: Array
    z: Array
    slope: Array
    q: Array
    mass: Array
    target_slope: Array
    factor: Array
    upstream: Array
    denominator: Array | None


def cross_entropy(logits: ArrayLike, target: ArrayLike, **options: Any) -> Array:
    """Cross-entropy loss alone; the arguments are those of `cross_entropy_and_grad`."""
    return cross_entropy_and_grad(logits, target, **options)[0]


@np.errstate(all="ignore")
def cross_entropy_and_grad(
    logits: ArrayLike,
    target: ArrayLike,
    *,
    reduction: str = "mean",
    axis: int = -1,
    all_ignored: str = "nan",
    z_loss: float = 0.0,
    dtype: DTypeLike = np.float64,
    **options: Any,
) -> tuple[Array, Array]:
    """Cross-entropy loss and its gradient with respect to the logits.

    The arguments are those of `fastxent.cross_entropy_and_grad`, and ``dtype``. The loss is
    0-d, or with ``reduction="none"`` of the logits' shape without ``axis``; the gradient has
    the logits' shape.
    """
    rows = _rows(logits, target, axis=axis, reduction=reduction, dtype=dtype, **options)
    p, log_p, lse = softmax(rows.z, dtype=dtype), log_softmax(rows.z, dtype=dtype), _lse(rows)

    # A class without mass adds nothing, whatever its log-probability (0 * -inf is no NaN);
    # but a row that has no softmax has no loss either.
    row_loss = -_products(rows.mass, log_p).sum(axis=1)
    grad = rows.mass.sum(axis=1, keepdims=True) * p - rows.mass
    if z_loss:
        row_loss = row_loss + z_loss * lse**2
        grad = grad + 2 * z_loss * lse[:, None] * p
    grad = grad * rows.slope

    row_loss = np.where(rows.live, rows.factor * row_loss, 0)
    grad = np.where(rows.live[:, None], (rows.upstream * rows.factor)[:, None] * grad, 0)
    loss = row_loss.reshape(rows.shape) if reduction == "none" else row_loss.sum()
    if rows.denominator is not None:
        if rows.denominator == 0:
            loss = np.asarray(0 if all_ignored == "zero" else np.nan, dtype)
            grad = np.zeros_like(grad)
        else:
            loss, grad = loss / rows.denominator, grad / rows.denominator
    return np.asarray(loss), classes_back(grad, np.shape(logits), axis)


@np.errstate(all="ignore")
def cross_entropy_aux(
    logits: ArrayLike,
    target: ArrayLike,
    *,
    reduction: str = "mean",
    axis: int = -1,
    all_ignored: str = "nan",
    z_loss: float = 0.0,
    dtype: DTypeLike = np.float64,
    **options: Any,
) -> dict[str, Array]:
    """Everything that ``aux`` can ask for, by name; "target_grad" for probabilities only.

    The arguments are those of `cross_entropy_and_grad`. All have the shape of the logits without
    ``axis``, but for "target_grad", which has the target's. A row without a softmax (a NaN, a
    +inf, or nothing but -inf) has NaN, or no argmax (-1), but the lse of nothing but -inf is -inf,
    and "z_loss" follows from it; an ignored row has 0, and no argmax.
    """
    rows = _rows(logits, target, axis=axis, reduction=reduction, dtype=dtype, **options)
    p, log_p, lse = softmax(rows.z, dtype=dtype), log_softmax(rows.z, dtype=dtype), _lse(rows)
    argmax = np.where(rows.live & ~np.isnan(p).any(axis=1), rows.z.argmax(axis=1), -1)
    side_outputs = {
        "lse": lse,
        "log_prob": _products(rows.q, log_p).sum(axis=1),
        "entropy": -_products(p, log_p).sum(axis=1),
        "z_loss": z_loss * lse**2,
    }
    side_outputs = {name: np.where(rows.live, x, 0) for name, x in side_outputs.items()}
    side_outputs |= {"argmax": argmax, "correct": (argmax >= 0) & (argmax == rows.q.argmax(axis=1))}
    side_outputs = {name: x.reshape(rows.shape) for name, x in side_outputs.items()}
    if not rows.hard:
        row_factor = (rows.upstream * rows.factor)[:, None]
        if rows.denominator is not None:
            row_factor = row_factor / rows.denominator
        # PyTorch's formula to the letter: 0 * -inf is NaN here
        target_grad = -row_factor * rows.target_slope * log_p
        if rows.denominator is not None and rows.denominator == 0:
            target_grad = np.zeros_like(target_grad)
        side_outputs["target_grad"] = classes_back(target_grad, np.shape(logits), axis)
    return side_outputs


@np.errstate(all="ignore")
def softmax_hessian(
    logits: ArrayLike,
    target: ArrayLike,
    kind: str = "product",
    factor: float = 1.0,
    floor: float = 0.0,
    *,
    axis: int = -1,
    dtype: DTypeLike = np.float64,
    **options: Any,
) -> tuple[Array, Array]:
    """Probabilities, and for each the diagonal of a Hessian; 0 in ignored rows.

    With "product" that is ``p * (1 - p)``, with "distance" ``|p - 1|`` for the label and ``p`` for
    all other classes; times ``factor`` and what the row's loss is multiplied by, but never below
    ``floor``. The other arguments are those of `cross_entropy_and_grad`.
    """
    of_rows = options.keys() - {"z_loss", "all_ignored"}  # which change neither
    options = {name: options[name] for name in of_rows}
    rows = _rows(logits, target, axis=axis, dtype=dtype, **options)
    p = softmax(rows.z, dtype=dtype)
    share = p * (1 - p) if kind == "product" else np.abs(p - (rows.q if rows.hard else 0))
    scale = rows.upstream * rows.factor * factor
    if rows.denominator is not None:
        scale = scale / rows.denominator
    hess = np.maximum(scale[:, None] * share, floor)
    found = (np.where(rows.live[:, None], values, 0) for values in (p, hess))
    proba, hess = (classes_back(values, np.shape(logits), axis) for values in found)
    return proba, hess


def _rows(
    logits: ArrayLike,
    target: ArrayLike,
    *,
    weight: ArrayLike | None = None,
    ignore_index: int | None = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    normalizer: float | None = None,
    sample_weight: ArrayLike | None = None,
    softcap: float | None = None,
    logit_scale: float = 1.0,
    axis: int = -1,
    dtype: DTypeLike = np.float64,
    grad_output: ArrayLike | None = None,
) -> Rows:
    x = classes_last(logits, axis, dtype)
    labels = np.asarray(target)
    *row_shape, C = x.shape
    N = int(np.prod(row_shape))
    w = np.ones(C, dtype) if weight is None else np.asarray(weight, dtype)
    s = np.ones(N, dtype) if sample_weight is None else np.asarray(sample_weight, dtype).reshape(N)

    hard = labels.dtype.kind in "iu"
    live = np.ones(N, bool)
    if hard:
        q = np.asarray(np.arange(C) == labels.reshape(N, 1), dtype)
        if ignore_index is not None:
            live = labels.reshape(N) != ignore_index
    else:
        q = classes_last(labels, axis, dtype).reshape(N, C)
    label_smoothing = float(label_smoothing)  # 1 minus a float32 is rounded to float32
    mass = w * ((1 - label_smoothing) * q + label_smoothing / C)

    x = np.where(live[:, None], x.reshape(N, C), 0)
    z, slope = logit_scale * x, np.full_like(x, logit_scale)
    if softcap is not None:
        # -inf stays -inf: it masks its class, which the cap would undo. +inf becomes the cap.
        tanh = np.tanh(z / softcap)
        z = np.where(np.isneginf(x), x, softcap * tanh)
        slope = logit_scale * (1 - tanh**2)

    upstream = np.ones(N, dtype)
    if grad_output is not None:
        upstream = np.broadcast_to(np.asarray(grad_output, dtype), row_shape).reshape(N)
    denominator = None
    if reduction == "mean":
        if normalizer is not None:
            denominator = np.asarray(normalizer, dtype)
        else:
            denominator = (((q * w).sum(axis=1) * s)[live] if hard else s).sum()
    return Rows(
        hard=hard,
        shape=tuple(row_shape),
        live=live,
        z=z,
        slope=slope,
        q=q,
        mass=np.where(live[:, None], mass, 0),
        target_slope=w * (1 - np.asarray(label_smoothing, dtype)),
        factor=np.where(live, s, 0),
        upstream=upstream,
        denominator=denominator,
    )


def _lse(rows: Rows) -> Array:
    """Logsumexp of each row; NaN with a +inf, as such a row has no softmax."""
    lse = logsumexp(rows.z, dtype=rows.z.dtype)
    return np.where(np.isposinf(rows.z).any(axis=1), np.nan, lse)


def _products(mass: Array, log_p: Array) -> Array:
    """mass * log_p, 0 for a class without mass; NaN for a row without a softmax."""
    products = np.where(mass == 0, 0, mass * log_p)
    return np.where(np.isnan(log_p).any(axis=1, keepdims=True), np.nan, products)
