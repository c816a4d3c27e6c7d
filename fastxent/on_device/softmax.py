"""Softmax, its logarithm and its normaliser on a GPU."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastxent import checks
from fastxent.backends.contract import Outputs
from fastxent.interchange import Home
from fastxent.layout import join_axes, order_of, output_rows
from fastxent.on_device.arrays import Arrays
from fastxent.precision import precision_of
from fastxent.problem import Problem

__all__ = ["logsumexp", "normalised"]


def _joined(array: Any, axes: tuple[int, ...], like: Any) -> tuple[Any, int]:
    """View with the axes of the classes made one, and where that is."""
    if len(axes) == 1:
        return array, axes[0]
    joined: Any = join_axes(array, order_of(like, axes))
    return joined, joined.ndim - 1


class _Call:
    """The checked argument.

    Attributes
    ----------
    arrays : Arrays
    axes : tuple of int
        Where the classes are.
    rows_shape : tuple of int
    is_empty : bool
        Whether there are no classes.
    """

    def __init__(
        self, home: Home, axis: Any, backend: str | None, num_threads: Any, may_be_empty: bool
    ) -> None:
        self.arrays = Arrays.of_call(home, "x", backend)
        self._num_threads = num_threads
        may_be_scalar = axis is None or (isinstance(axis, tuple) and not axis)
        first: Any = self.arrays.first
        checks.check_logits(first, "x", may_be_scalar=may_be_scalar)
        self.axes = checks.check_axes(axis, first, may_be_empty)
        shape = first.shape
        self.rows_shape = tuple(size for at, size in enumerate(shape) if at not in self.axes)
        self.is_empty = math.prod(shape[at] for at in self.axes) == 0
        if not self.is_empty:
            first = self.arrays.gathered(first, home.like, "x", self.axes, first)
            checks.check_view(first, self.axes, "x")
            self.arrays.first = first

    def problem(self) -> Problem:
        """Rows of the argument."""
        joined, at = _joined(self.arrays.first, self.axes, self.arrays.first)
        return Problem.of_array(joined, at, self._num_threads)


def normalised(
    name: str, home: Home, axis: Any, out: Any, backend: str | None, num_threads: Any
) -> Any:
    """`fastxent.softmax`, `name` being "proba", or `fastxent.log_softmax`, "log_proba"."""
    call = _Call(home, axis, backend, num_threads, may_be_empty=False)
    arrays, problem = call.arrays, call.problem()
    first: Any = arrays.first
    precision = problem.precision
    result: Any = arrays.read_out(out)
    if result is None:
        result = arrays.empty_like(first, precision.storage)
    else:
        checks.check_out(result, first, {}, first.shape, precision.storage, "x")
        checks.check_view(result, call.axes, "out", first)
    joined, at = _joined(result, call.axes, first)
    rows = output_rows(joined, at, joined, precision.storage, precision.kernel).rows
    outputs = Outputs(proba=rows) if name == "proba" else Outputs(log_proba=rows)
    arrays.backend.softmax(problem, outputs)
    return arrays.deliver(result, out)


def logsumexp(home: Home, axis: Any, backend: str | None, num_threads: Any) -> Any:
    """`fastxent.logsumexp`."""
    call = _Call(home, axis, backend, num_threads, may_be_empty=True)
    arrays = call.arrays
    if call.is_empty:
        checks.check_num_threads(1 if num_threads is None else num_threads)
        first: Any = arrays.first
        precision = precision_of(first.dtype)
        assert precision is not None  # check_logits has passed
        nothing = np.full(call.rows_shape, -np.inf, precision.loss)
        return arrays.give(arrays.upload(nothing, is_result=True).reshape(call.rows_shape))
    problem = call.problem()
    lse: Any = arrays.empty((problem.rows,), problem.precision.loss)
    arrays.backend.softmax(problem, Outputs(lse=lse))
    return arrays.give(lse.reshape(call.rows_shape))
