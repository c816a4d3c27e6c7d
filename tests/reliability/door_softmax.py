"""Any calls of the softmax functions, of their Jacobian products, and of the check of labels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

import fastxent as fx
from fastxent import reference
from fastxent.comparison import ROUNDINGS_OF_SPREAD_MASS, compare, each, largest
from reliability.door_calls import (
    JUNK,
    Source,
    draw_array,
    draw_logits,
    draw_out,
    draw_target,
)
from reliability.door_checks import (
    Refused,
    Wrong,
    draw_backend,
    is_delivered,
    is_finite,
    is_known,
    overflows,
    require,
    tried,
)

__all__ = ["backward", "labels", "softmax"]

Array = NDArray[Any]


def softmax(source: Source) -> None:
    """`softmax`, `log_softmax` or `logsumexp`."""
    logits, wild = draw_logits(source)
    axis = source.one_of((-1, 0, (0, 1), 5, source.one_of(JUNK)))
    name = source.one_of(("softmax", "log_softmax", "logsumexp"))
    given, out = np.array(logits), None if name == "logsumexp" else draw_out(source, logits)
    backend = draw_backend(source, logits, axis)
    result = tried(getattr(fx, name), logits, out=out, axis=axis, backend=backend)
    is_delivered(result, out)
    if not is_known(given, wild):
        return
    textbook = getattr(reference, name)

    def compute(x: Array, dtype: Any) -> tuple[Array]:
        return (textbook(x, axis, dtype),)

    scales = (largest if name == "softmax" else each,)
    require(compare((name,), (result,), compute, given, scales, (ROUNDINGS_OF_SPREAD_MASS,)))


def backward(source: Source) -> None:
    """`softmax_backward` or `log_softmax_backward`."""
    first, wild = draw_logits(source)
    shape = np.shape(first)
    kind = str(first.dtype) if isinstance(first, np.ndarray) else "float64"
    kinds = (kind if kind != "object" else "float32",) * 7 + ("float32",)
    grad = draw_array(source, shape, kinds, wild)
    axis = source.one_of((-1, 0, 1))
    name = source.one_of(("softmax_backward", "log_softmax_backward"))
    given, given_grad = np.array(first), np.array(grad)
    backend, out = source.one_of(("cython", "cython", "cython", "numpy")), draw_out(source, first)
    result = tried(getattr(fx, name), first, grad, out=out, backend=backend, axis=axis)
    is_delivered(result, out)
    if not is_known(given, wild) or not is_finite(given, given_grad):
        return
    textbook = getattr(reference, name)

    def compute(x: Array, dtype: Any) -> tuple[Array]:
        return (textbook(x, given_grad, axis, dtype),)

    def scale(truth: Array) -> Any:
        if name == "softmax_backward":
            return max(1.0, float(largest(truth)))
        # g - exp(x) * sum(g), where x may be anything: each entry beside what it is the sum of
        x, upstream = given.astype(float), np.abs(given_grad.astype(float))
        return np.maximum(1.0, upstream + np.exp(x) * upstream.sum(axis=axis, keepdims=True))

    if not overflows(given, compute(given, np.float64)):
        require(compare((name,), (result,), compute, given, (scale,), (ROUNDINGS_OF_SPREAD_MASS,)))


def labels(source: Source) -> None:
    """`check_labels`: it lets pass what is right, and nothing else."""
    target = draw_target(source, np.zeros((1 + source.below(20), 1 + source.below(20))), -1, False)
    classes = source.one_of((1, 5, 20, 300, 0, -3, source.one_of(JUNK)))
    ignored = source.one_of((-100, None, 3))
    given = np.array(target)
    is_right = (
        isinstance(classes, int)
        and classes > 0
        and given.dtype.kind in "iu"
        and all(0 <= label < classes or label == ignored for label in given.reshape(-1).tolist())
    )
    try:
        tried(fx.check_labels, target, classes, ignore_index=ignored)
    except Refused as refusal:
        if is_right:
            raise Wrong(f"right labels were refused: {refusal.__cause__}") from refusal
        raise
    if not is_right:
        raise Wrong(f"check_labels lets {given.dtype} labels of {classes} classes pass")
