"""Cross-entropy of a sigmoid, one loss an element, with derivatives of any order."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from fastxent.backends import pick
from fastxent.binary import BinaryCall
from fastxent.precision import Array
from fastxent.tensorflow.tensors import compute

__all__ = ["sigmoid_loss"]


def _call(logits: Array, labels: Array, reduction: str, upstream: Any = None) -> BinaryCall:
    return BinaryCall.build(
        logits,
        labels,
        weight=None,
        pos_weight=None,
        label_smoothing=0.0,
        reduction=reduction,
        num_threads=None,
        grad_output=upstream,
    )


def _forward(logits: Array, labels: Array) -> tuple[Array, ...]:
    loss, _ = _call(logits, labels, "none").run(pick(None), wants_grad=False)
    with np.errstate(over="ignore"):  # infinite in float16, as TensorFlow's would be
        return (np.asarray(loss).astype(logits.dtype, copy=False),)


def _backward(logits: Array, labels: Array, upstream: Array) -> tuple[Array, ...]:
    # the sum needs no array of losses, and its gradient is that of each loss
    _, grad = _call(logits, labels, "sum", upstream).run(pick(None), wants_grad=True)
    assert grad is not None
    return (grad,)


def sigmoid_loss(logits: Any, labels: Any) -> Any:
    """One loss for each logit, in the dtype of the logits."""
    is_float = labels.dtype.is_floating
    given = (logits, labels) if is_float else (logits,)

    def loss_of(logits: Any, *floats: Any) -> tuple[Any, Any]:
        loss = compute(
            _forward,
            [logits, labels],
            [logits.dtype],
            [logits.shape],
            "fastxent_sigmoid_cross_entropy",
        )[0]

        def gradient(upstream: Any) -> Any:
            grad = _gradient(logits, labels, upstream)
            return (grad, tf.cast(-upstream * logits, labels.dtype)) if floats else grad

        return loss, gradient

    return tf.custom_gradient(loss_of)(*given)


def _gradient(logits: Any, labels: Any, upstream: Any) -> Any:
    """Gradient of the logits, linear in the upstream one, with its own derivatives."""
    given = (logits, upstream, labels) if labels.dtype.is_floating else (logits, upstream)

    def gradient_of(logits: Any, upstream: Any, *floats: Any) -> tuple[Any, Any]:
        grad = compute(
            _backward,
            [logits, labels, upstream],
            [logits.dtype],
            [logits.shape],
            "fastxent_sigmoid_cross_entropy_gradient",
        )[0]

        def second(cotangent: Any) -> tuple[Any, ...]:
            p = tf.sigmoid(logits)
            scaled = cotangent * upstream
            # 1 - p would lose the digits of a p near 1
            of_logits = scaled * p * tf.sigmoid(-logits)
            of_upstream = cotangent * (p - tf.cast(labels, p.dtype))
            of_labels = tf.cast(-scaled, labels.dtype)
            return (of_logits, of_upstream, of_labels)[: 2 + len(floats)]

        return grad, second

    return tf.custom_gradient(gradient_of)(*given)
