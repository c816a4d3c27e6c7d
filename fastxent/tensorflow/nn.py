"""The public functions: docstring, tensors, static checks, the loss of each row or element."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import tensorflow as tf

from fastxent import checks
from fastxent.checks.tensorflow import (
    check_given,
    check_labels_of_classes,
    check_labels_of_elements,
    check_numbers,
    check_probabilities,
)
from fastxent.tensorflow.sigmoid import sigmoid_loss
from fastxent.tensorflow.softmax import SoftmaxLoss
from fastxent.tensorflow.tensors import shape_of

__all__ = [
    "cross_entropy",
    "sigmoid_cross_entropy_with_logits",
    "softmax_cross_entropy_with_logits",
    "sparse_softmax_cross_entropy_with_logits",
]

_Function = TypeVar("_Function", bound=Callable[..., Any])


def _as_written(function: _Function) -> _Function:
    """Keep AutoGraph, which rewrites what a `tf.function` calls, out of code that needs none."""
    converted = tf.autograph.experimental.do_not_convert(function)
    functools.update_wrapper(converted, function)
    kept: _Function = converted
    return kept


def _tensors(labels: Any, logits: Any) -> tuple[Any, Any]:
    check_given(labels=labels, logits=logits)
    logits = tf.convert_to_tensor(logits, name="logits")
    # the door looks at arrays: one of this dtype tells it what it wants to know
    checks.check_logits(np.empty(1, logits.dtype.as_numpy_dtype))
    return tf.convert_to_tensor(labels, name="labels"), logits


def _front(axis: int, logits: Any) -> int:
    """Class axis counted from the front where the rank is known."""
    rank = logits.shape.rank
    return axis if rank is None else axis % rank


def _hard_loss(
    labels: Any, logits: Any, axis: int, ignore_index: int | None, smoothing: float
) -> Any:
    check_labels_of_classes(
        shape_of(labels), shape_of(logits), axis, labels.dtype.is_integer, labels.dtype.name
    )
    return SoftmaxLoss(labels, _front(axis, logits), ignore_index, smoothing).of(logits)


def _soft_loss(labels: Any, logits: Any, axis: int, smoothing: float) -> Any:
    check_probabilities(shape_of(labels), shape_of(logits), axis)
    dtype = labels.dtype
    check_numbers(dtype.is_floating or dtype.is_integer or dtype.is_bool, dtype.name)
    if not dtype.is_floating:
        labels = tf.cast(labels, tf.float32 if logits.dtype.size == 2 else logits.dtype)
    return SoftmaxLoss(labels, _front(axis, logits), None, smoothing).of(logits)


@_as_written
def sparse_softmax_cross_entropy_with_logits(labels: Any, logits: Any, name: Any = None) -> Any:
    """Cross-entropy of each row for one class index a row; stands in for that of `tf.nn`.

    Parameters
    ----------
    labels : tensor of integers, shape of `logits` without the last axis
        Class indices in [0, C).
    logits : tensor of float16, bfloat16, float32 or float64, shape (..., C)
        Unnormalised scores. A logit of -inf masks its class.
    name : str, optional
        Name scope of the operations.

    Returns
    -------
    tf.Tensor
        Shape of `labels`, dtype of `logits`.

    Raises
    ------
    LabelError
        A label lies outside [0, C), in eager mode. In a graph that runs it is
        ``tf.errors.InvalidArgumentError``, and so is what only then can be known about shapes.
    ShapeError, DTypeError
        Also a ``ValueError`` and a ``TypeError``. Raised while a graph is built.
    BackendError
        In a function that is compiled with ``jit_compile=True``.

    Notes
    -----
    Half precision is computed with in float32, and the loss rounded as `tf.nn` does.

    Examples
    --------
    >>> import tensorflow as tf
    >>> import fastxent.tensorflow as fxtf
    >>> logits = tf.constant([[2.0, -5.0, 0.5, -0.1], [0.0, 0.0, 1.9, 1.4]])
    >>> loss = fxtf.sparse_softmax_cross_entropy_with_logits(labels=[0, 3], logits=logits)
    >>> loss.numpy().round(4)
    array([0.2975, 1.1448], dtype=float32)
    """
    with tf.name_scope(name or "SparseSoftmaxCrossEntropyWithLogits"):
        labels, logits = _tensors(labels, logits)
        return _hard_loss(labels, logits, -1, None, 0.0)


@_as_written
def softmax_cross_entropy_with_logits(
    labels: Any, logits: Any, axis: int = -1, name: Any = None
) -> Any:
    """Cross-entropy of each row for probabilities; stands in for that of `tf.nn`.

    Parameters
    ----------
    labels : tensor, shape of `logits`
        Probabilities; rows need not sum to one. Integers and booleans are converted to the dtype
        of `logits`, as `tf.nn` does. Not broadcast.
    logits : tensor of float16, bfloat16, float32 or float64
        Unnormalised scores. A logit of -inf masks its class.
    axis : int, default -1
        Where the classes are; any is read where it lies.
    name : str, optional
        Name scope of the operations.

    Returns
    -------
    tf.Tensor
        Shape of `logits` without `axis`, dtype of `logits`.

    Raises
    ------
    ShapeError, DTypeError, BackendError
        As in `sparse_softmax_cross_entropy_with_logits`.

    Notes
    -----
    Gradients go to `logits` and to `labels`; that of `labels` is computed only if it is asked for.

    Where the labels of a row sum to T, the gradient of its logits is ``T * p - labels``, the
    derivative of the loss. That of `tf.nn` is ``p - labels``, right for T = 1 only. And a class
    without probability adds 0 even where its logit is -inf, where `tf.nn` gives NaN.

    Examples
    --------
    >>> import tensorflow as tf
    >>> import fastxent.tensorflow as fxtf
    >>> logits = tf.constant([[4.0, 2.0, 1.0], [0.0, 5.0, 1.0]])
    >>> labels = tf.constant([[1.0, 0.0, 0.0], [0.0, 0.8, 0.2]])
    >>> fxtf.softmax_cross_entropy_with_logits(labels=labels, logits=logits).numpy().round(4)
    array([0.1698, 0.8247], dtype=float32)
    """
    with tf.name_scope(name or "softmax_cross_entropy_with_logits"):
        labels, logits = _tensors(labels, logits)
        return _soft_loss(labels, logits, axis, 0.0)


@_as_written
def sigmoid_cross_entropy_with_logits(
    labels: Any = None, logits: Any = None, name: Any = None
) -> Any:
    """Cross-entropy of each logit with a target between 0 and 1; stands in for that of `tf.nn`.

    Parameters
    ----------
    labels : tensor, shape of `logits`
        Probabilities of the 1; integers and booleans are 0 or 1.
    logits : tensor of float16, bfloat16, float32 or float64
        Scores of any shape.
    name : str, optional
        Name scope of the operations.

    Returns
    -------
    tf.Tensor
        Shape and dtype of `logits`.

    Raises
    ------
    OptionError
        `labels` or `logits` is missing. Also a ``ValueError``.
    LabelError, ShapeError, DTypeError, BackendError
        As in `sparse_softmax_cross_entropy_with_logits`; a label that is an integer must be 0 or 1.

    Notes
    -----
    Gradients go to `logits` and to `labels`.

    Examples
    --------
    >>> import tensorflow as tf
    >>> import fastxent.tensorflow as fxtf
    >>> logits = tf.constant([1.0, -1.0, 0.0])
    >>> labels = tf.constant([0.0, 1.0, 0.5])
    >>> fxtf.sigmoid_cross_entropy_with_logits(labels=labels, logits=logits).numpy().round(4)
    array([1.3133, 1.3133, 0.6931], dtype=float32)
    """
    with tf.name_scope(name or "logistic_loss"):
        labels, logits = _tensors(labels, logits)
        check_labels_of_elements(shape_of(labels), shape_of(logits))
        return sigmoid_loss(logits, labels)


@_as_written
def cross_entropy(
    logits: Any,
    target: Any,
    *,
    axis: int = -1,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    name: Any = None,
) -> Any:
    """Cross-entropy of each row, with the options that the losses of Keras have.

    Parameters
    ----------
    logits : tensor of float16, bfloat16, float32 or float64
        Unnormalised scores, the classes along `axis`.
    target : tensor
        Integers: class indices, shape of `logits` without `axis`. Floating-point numbers:
        probabilities, shape of `logits`.
    axis : int, default -1
        Where the classes are.
    ignore_index : int, optional
        Rows with this label have loss 0 and gradient 0, and their logits are not read. With
        probabilities a value of 0 or more is an error.
    label_smoothing : float, default 0.0
        Share, in [0, 1], of each row's target mass that is spread evenly over all classes.
    name : str, optional
        Name scope of the operations.

    Returns
    -------
    tf.Tensor
        Shape of `logits` without `axis`, dtype of `logits`: one loss a row, not reduced.

    Raises
    ------
    LabelError, ShapeError, DTypeError, BackendError
        As in `sparse_softmax_cross_entropy_with_logits`.
    OptionError
        A value is out of range. Also a ``ValueError``.

    Examples
    --------
    >>> import tensorflow as tf
    >>> import fastxent.tensorflow as fxtf
    >>> logits = tf.constant([[2.0, 1.0, 0.1], [0.1, 2.0, 1.9]])
    >>> fxtf.cross_entropy(logits, [1, -1], ignore_index=-1).numpy().round(3)
    array([1.417, 0.   ], dtype=float32)
    """
    with tf.name_scope(name or "cross_entropy"):
        target, logits = _tensors(target, logits)
        smoothing = checks.check_label_smoothing(label_smoothing)
        is_hard = target.dtype.is_integer
        ignored = checks.check_ignore_index(ignore_index, is_hard)
        if is_hard:
            return _hard_loss(target, logits, axis, ignored, smoothing)
        return _soft_loss(target, logits, axis, smoothing)
