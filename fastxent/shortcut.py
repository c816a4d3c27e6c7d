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
from fastxent.layout import empty_aligned
from fastxent.options import Options

__all__ = ["are_defaults", "mean_loss"]

_ndarray = np.ndarray
_LARGEST = float(np.finfo(np.float32).max)
_LABELS = 1 << 63


def are_defaults(options: Options) -> bool:
    """Whether a call has no options. What cannot be told at a glance counts as an option."""
    weight, _, smoothing, reduction, normalizer, sample_weight, *others = options
    z_loss, softcap, logit_scale, axis, all_ignored, aux = others
    return (
        weight is None
        and sample_weight is None
        and normalizer is None
        and softcap is None
        and type(smoothing) is type(z_loss) is type(logit_scale) is float
        and smoothing == z_loss == 0.0
        and logit_scale == 1.0
        and type(axis) is int
        and axis == -1
        and type(reduction) is type(all_ignored) is str
        and reduction == "mean"
        and all_ignored == "nan"
        and type(aux) is tuple
        and not aux
    )


def mean_loss(
    logits: Any,
    target: Any,
    ignore_index: Any,
    backend: str | None,
    num_threads: Any,
    wants_grad: bool,
    out: Any = None,
) -> tuple[Any, Any] | None:
    """Mean loss in the dtype of the logits, and its gradient, in `out` if that is given.

    None where anything is not plain, and nothing has been written.
    """
    if (
        type(logits) is not _ndarray
        or type(target) is not _ndarray
        # not all dtypes have a buffer that compiled code could look at
        or logits.dtype.char not in "fd"
        or target.dtype.kind not in "iu"
        or not (out is None or (type(out) is _ndarray and out.dtype.char in "fd"))
        or not (
            ignore_index is None
            or (type(ignore_index) is int and -_LABELS <= ignore_index < _LABELS)
        )
    ):
        return None
    grad = empty_aligned(logits.shape, logits.dtype) if wants_grad and out is None else out
    workers = threads.plan(num_threads, target.size, logits.nbytes)
    mean = pick(backend).mean_loss(logits, target, ignore_index, grad, workers)
    if mean is None:
        return None
    if -_LARGEST <= mean <= _LARGEST:
        return logits.dtype.type(mean), grad
    with np.errstate(over="ignore"):  # infinite in float32: the caller's numbers, no reason to warn
        return logits.dtype.type(mean), grad
