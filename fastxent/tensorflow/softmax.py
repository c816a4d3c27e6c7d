"""Cross-entropy of a softmax, one loss a row, with derivatives of any order.

The forward pass computes the loss and two numbers a row, the backward pass the gradient from these
with its upstream factor: two passes over the logits, and one array of their size. A gradient that
comes with the loss would have to be multiplied by the upstream one afterwards, which reads it and
writes another; and in half precision it would be rounded before a loss scale could save it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from fastxent.backends import pick
from fastxent.backends.contract import Outputs
from fastxent.mass import representable
from fastxent.precision import Array, precision_of
from fastxent.problem import Problem
from fastxent.tensorflow.tensors import compute, without_axis

__all__ = ["SoftmaxLoss"]


def _wide(tensor: Any) -> Any:
    """Half precision as float32."""
    return tf.cast(tensor, tf.float32) if tensor.dtype.size == 2 else tensor


@dataclass(frozen=True)
class SoftmaxLoss:
    """The loss of the rows of some logits for one target and these options.

    Attributes
    ----------
    target : tensor
        Class indices, or probabilities.
    axis : int
    ignore_index : int or None
    label_smoothing : float
    """

    target: Any
    axis: int
    ignore_index: int | None
    label_smoothing: float

    @property
    def _is_hard(self) -> bool:
        return bool(self.target.dtype.is_integer)

    def of(self, logits: Any) -> Any:
        """One loss a row, in the dtype of the logits."""
        carrier = () if self._is_hard else (self._target_carrier(logits),)

        def loss_of(logits: Any, *carrier: Any) -> tuple[Any, Any]:
            loss, row_max, row_sum = self._forward(logits)

            def gradient(upstream: Any) -> Any:
                grad = self._gradient(logits, upstream, row_max, row_sum)
                return (grad, upstream) if carrier else grad

            return loss, gradient

        return tf.custom_gradient(loss_of)(logits, *carrier)

    def _target_carrier(self, logits: Any) -> Any:
        """Zeros that depend on the target: what reaches them as gradient goes on to the target.

        A tape calls the gradient of an operation for all of its inputs. That for probabilities
        costs as much as that for logits, and is computed only if a tape watches them.
        """
        gain = 1.0 - self.label_smoothing

        def zeros_of(target: Any) -> tuple[Any, Any]:
            shape = tf.shape(target)
            rows = tf.concat([shape[: self.axis], shape[self.axis :][1:]], 0)

            def gradient(upstream: Any) -> Any:
                log_p = tf.nn.log_softmax(_wide(logits), self.axis)
                grad = -gain * tf.expand_dims(tf.cast(upstream, log_p.dtype), self.axis) * log_p
                return tf.cast(grad, target.dtype)

            return tf.zeros(rows, logits.dtype), gradient

        return tf.custom_gradient(zeros_of)(self.target)

    def _problem(self, logits: Array, target: Array) -> Problem:
        return Problem.build(
            logits,
            target,
            reduction="none",
            axis=self.axis,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
        )

    def _forward(self, logits: Any) -> list[Any]:
        """Loss and statistics of the rows."""
        dtype, rows = logits.dtype, without_axis(logits, self.axis)
        precision = precision_of(np.dtype(dtype.as_numpy_dtype))

        def forward(logits: Array, target: Array) -> tuple[Array, ...]:
            problem = self._problem(logits, target)
            backend = pick(None, problem)
            row_max = np.empty(problem.rows, problem.precision.compute)
            row_sum = np.empty(problem.rows)
            outputs = Outputs(row_max=row_max, row_sum=row_sum)
            loss = np.asarray(problem.with_labels(backend).reduced_loss(backend, outputs))
            with np.errstate(over="ignore"):  # infinite in float16, as TensorFlow's would be
                return loss.astype(logits.dtype, copy=False), row_max, row_sum

        # what cannot be computed with is refused by the door, which gets to see the arrays
        statistics = dtype if precision is None else tf.as_dtype(precision.compute)
        vector = tf.TensorShape([rows.num_elements()])
        return compute(
            forward,
            [logits, self.target],
            [dtype, statistics, tf.float64],
            [rows, vector, vector],
            "fastxent_cross_entropy",
        )

    def _gradient(self, logits: Any, upstream: Any, row_max: Any, row_sum: Any) -> Any:
        """Gradient of the logits, linear in the upstream one, with its own derivatives."""

        def backward(
            logits: Array, target: Array, upstream: Array, row_max: Array, row_sum: Array
        ) -> tuple[Array, ...]:
            problem = self._problem(logits, target)
            return (problem.later_grad(pick(None, problem), row_max, row_sum, upstream),)

        targets = () if self._is_hard else (self.target,)

        def gradient_of(logits: Any, upstream: Any, *targets: Any) -> tuple[Any, Any]:
            grad = compute(
                backward,
                [logits, self.target, upstream, row_max, row_sum],
                [logits.dtype],
                [logits.shape],
                "fastxent_cross_entropy_gradient",
            )[0]

            def second(cotangent: Any) -> tuple[Any, ...]:
                return self._second(logits, upstream, cotangent)[: 2 + len(targets)]

            return grad, second

        return tf.custom_gradient(gradient_of)(logits, upstream, *targets)

    def _second(self, logits: Any, upstream: Any, cotangent: Any) -> tuple[Any, ...]:
        """Gradients of <cotangent, upstream * (T p - t)>, in operations of TensorFlow.

        With respect to the logits, the upstream gradient and the probabilities of the target.
        """
        axis = self.axis
        wide = _wide(logits)
        mass, counted = self._mass(wide)
        if counted is not None:  # a row that is not counted may hold anything
            wide = tf.where(counted, wide, tf.zeros_like(wide))
        total = tf.reduce_sum(mass, axis, keepdims=True)
        factor = tf.expand_dims(tf.cast(upstream, wide.dtype), axis)
        # all three are linear in it: a bad label makes NaN of them
        v = tf.cast(cotangent, wide.dtype) * self._nan_unless_sound(wide, counted)
        p = tf.nn.softmax(wide, axis)
        mean = tf.reduce_sum(p * v, axis, keepdims=True)
        of_logits = factor * total * p * (v - mean)
        of_upstream = tf.reduce_sum((total * p - mass) * v, axis)
        of_target = (1.0 - self.label_smoothing) * factor * (mean - v)
        return (
            tf.cast(of_logits, logits.dtype),
            tf.cast(of_upstream, upstream.dtype),
            tf.cast(of_target, self.target.dtype),
        )

    def _nan_unless_sound(self, logits: Any, counted: Any) -> Any:
        """1, or NaN where a label is bad.

        A graph drops the pass that would refuse it if nobody needs what the pass computes.
        """
        if not self._is_hard:
            return tf.ones((), logits.dtype)
        classes = tf.shape(logits, tf.int64)[self.axis]
        labels = tf.expand_dims(tf.cast(self.target, tf.int64), self.axis)
        inside = (labels >= 0) & (labels < classes)
        if counted is not None:
            inside |= ~counted
        one = tf.ones((), logits.dtype)
        return tf.where(tf.reduce_all(inside), one, one * np.nan)

    def _mass(self, logits: Any) -> tuple[Any, Any]:
        """The t of the formula for every class, and which rows count; None if all do."""
        classes = tf.shape(logits)[self.axis]
        share = self.label_smoothing / tf.cast(classes, logits.dtype)
        if not self._is_hard:
            probabilities = tf.cast(self.target, logits.dtype)
            return (1.0 - self.label_smoothing) * probabilities + share, None
        labels = tf.cast(self.target, tf.int64)  # one_hot takes few integers
        one_hot = tf.one_hot(labels, classes, axis=self.axis, dtype=logits.dtype)
        mass = (1.0 - self.label_smoothing) * one_hot + share
        skip = representable(self.ignore_index, np.dtype(self.target.dtype.as_numpy_dtype))
        if skip is None:
            return mass, None
        counted = tf.expand_dims(tf.not_equal(self.target, skip), self.axis)
        return tf.where(counted, mass, tf.zeros_like(mass)), counted
