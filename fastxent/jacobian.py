"""JacobianProblem: the arrays of a Jacobian product, in the form that backends compute.

    out = p * (grad - sum p * grad)        or        out = grad - exp(log_p) * sum grad

with the sums over the classes; docs/math.md derives both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastxent import checks, threads
from fastxent.layout import OutputRows, join_axes, order_of, output_rows, rows_of, split_axes
from fastxent.precision import Array, Precision, native, precision_of

__all__ = ["JacobianOutput", "JacobianProblem"]


@dataclass(frozen=True, slots=True)
class JacobianProblem:
    """One call of `softmax_backward` or `log_softmax_backward`.

    Attributes
    ----------
    grad : (rows.., C) array
        The upstream gradient: a view like `Problem.logits`, with its own dimensions and strides.
    precision : Precision
        Of all arrays.
    num_threads : int
    proba, log_proba : (rows.., C) array, or None
        The softmax, or its logarithm: exactly one of them.
    """

    grad: Array
    precision: Precision
    num_threads: int
    proba: Array | None = None
    log_proba: Array | None = None

    @classmethod
    def build(
        cls,
        first: Any,
        grad: Any,
        axis: Any,
        num_threads: Any,
        out: Any,
        *,
        is_log: bool,
        storage: Any = None,
    ) -> tuple[JacobianProblem, JacobianOutput]:
        """Check the public arguments; give the problem, and the place for its result."""
        storage = checks.check_storage(storage)
        name, grad_name = ("log_p", "grad") if is_log else ("p", "grad_p")
        may_be_scalar = axis is None or (isinstance(axis, tuple) and not axis)
        first = checks.check_logits(first, name, storage, may_be_scalar=may_be_scalar)
        grad = checks.check_upstream(grad, grad_name, first, name, storage)
        axes = checks.check_axes(axis, first, may_be_empty=False, name=name)
        checks.check_out_of_product(out, {name: first, grad_name: grad})
        precision = precision_of(first.dtype, storage)
        assert precision is not None  # check_logits has passed
        classes = math.prod(first.shape[at] for at in axes)
        size_in_bytes = first.size * precision.compute.itemsize
        order = None if len(axes) == 1 else order_of(first, axes)
        rows, upstream = _joined(first, order), _joined(grad, order)
        at = axes[0] if order is None else rows.ndim - 1
        place = out if order is None or out is None else join_axes(out, order)
        result = output_rows(rows, at, place, precision.storage, precision.kernel)
        rows = rows_of(rows, at, precision.kernel)
        problem = cls(
            grad=rows_of(upstream, at, precision.kernel),
            precision=precision,
            num_threads=threads.plan(num_threads, first.size // classes, size_in_bytes),
            proba=None if is_log else rows,
            log_proba=rows if is_log else None,
        )
        return problem, JacobianOutput(out, first.shape, order, result)


@dataclass(slots=True)
class JacobianOutput:
    """The caller's array and the rows of it that a backend fills.

    Attributes
    ----------
    out : array or None
        The caller's.
    shape : tuple of int
    order : list of int or None
        Several class axes, in the order in which all arrays have them made one.
    result : OutputRows
    """

    out: Array | None
    shape: tuple[int, ...]
    order: list[int] | None
    result: OutputRows

    @property
    def rows(self) -> Array:
        """What the backend writes."""
        return self.result.rows

    def deliver(self) -> Array:
        """Give the caller's array, after copying into it what could not be written directly."""
        array = self.result.deliver()
        if self.order is None:
            return array
        split = split_axes(array, self.shape, self.order)
        if self.out is None:
            return split
        if not np.may_share_memory(split, self.out):
            self.out[...] = split
        return self.out


def _joined(array: Array, order: list[int] | None) -> Array:
    """The same entries with several axes of classes made one, which comes last."""
    if order is None:
        return array
    joined = join_axes(array, order)
    if joined is not None:
        return joined
    rows = tuple(size for at, size in enumerate(array.shape) if at not in order)
    copy = np.empty((*rows, math.prod(array.shape[at] for at in order)), native(array.dtype))
    split_axes(copy, array.shape, order)[...] = array
    return copy
