"""The short way of a call without options: no Problem is built where the arrays are plain.

The door takes about 20 us to look at every argument, more than a small call's arithmetic. A
backend's `mean_loss` looks at the arrays itself, in compiled code, and declines whatever is out of
the ordinary: then the door translates it, or says what is wrong with it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastxent import threads
from fastxent.backends import pick
from fastxent.precision import Array

__all__ = ["are_defaults", "mean_loss", "mean_loss_and_grad"]

_ndarray = np.ndarray


def are_defaults(
    weight: Any,
    label_smoothing: Any,
    reduction: Any,
    normalizer: Any,
    sample_weight: Any,
    axis: Any,
    all_ignored: Any,
) -> bool:
    """Whether a call has no options. What cannot be told at a glance counts as an option."""
    return (
        weight is None
        and sample_weight is None
        and normalizer is None
        and type(label_smoothing) is float
        and label_smoothing == 0.0
        and type(axis) is int
        and axis == -1
        and type(reduction) is str
        and reduction == "mean"
        and type(all_ignored) is str
        and all_ignored == "nan"
    )


def _is_label(ignore_index: Any) -> bool:
    return ignore_index is None or (
        type(ignore_index) is int and -(1 << 63) <= ignore_index < 1 << 63
    )


def mean_loss(
    logits: Any,
    target: Any,
    ignore_index: Any,
    backend: str | None,
    num_threads: Any,
    grad: Array | None = None,
) -> Any:
    """Mean loss of plain arrays, in their dtype; its gradient into `grad`. None: not plain."""
    if type(logits) is not _ndarray or type(target) is not _ndarray or not _is_label(ignore_index):
        return None
    workers = threads.plan(num_threads, target.size, logits.nbytes)
    mean = pick(backend).mean_loss(logits, target, ignore_index, grad, workers)
    return None if mean is None else logits.dtype.type(mean)


def mean_loss_and_grad(
    logits: Any,
    target: Any,
    ignore_index: Any,
    backend: str | None,
    num_threads: Any,
    out: Any,
) -> tuple[Any, Array] | None:
    """The same with the gradient in `out`, or in a new array."""
    if type(logits) is not _ndarray or not (out is None or type(out) is _ndarray):
        return None
    grad = np.empty(logits.shape, logits.dtype) if out is None else out
    mean = mean_loss(logits, target, ignore_index, backend, num_threads, grad)
    return None if mean is None else (mean, grad)
