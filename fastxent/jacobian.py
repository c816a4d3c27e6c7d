"""JacobianProblem: the arrays of a Jacobian product as backends take them, without a copy.

    out = p * (grad - sum p * grad)        or        out = grad - exp(log_p) * sum grad

with the sums over the classes; docs/math.md derives both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastxent import checks_jacobian, threads
from fastxent.precision import Array

__all__ = ["JacobianProblem"]

# Leading dimensions that kernels take.
_MOST_LEADING = 4


@dataclass(frozen=True, slots=True)
class JacobianProblem:
    """One call of `softmax_backward` or `log_softmax_backward`, in the form that backends compute.

    Attributes
    ----------
    grad : array of 2 to 5 dimensions
        The upstream gradient, classes last, any strides, native. Row numbers count through the
        leading dimensions in C order; each array may have dimensions of its own. Half precision
        comes as uint16.
    kind : {"float16", "bfloat16", "float32", "float64"}
        What all arrays hold.
    num_threads : int
    proba, log_proba : array like `grad`, or None
        The softmax, or its logarithm: exactly one of them.
    """

    grad: Array
    kind: str
    num_threads: int
    proba: Array | None = None
    log_proba: Array | None = None

    @classmethod
    def build(
        cls, first: Any, grad: Any, axis: Any, num_threads: Any, out: Any, *, is_log: bool
    ) -> tuple[JacobianProblem, JacobianOutput]:
        """Check the public arguments; give the problem, and the place for its result."""
        name, grad_name = ("log_p", "grad") if is_log else ("p", "grad_p")
        first = checks_jacobian.check_floats(first, name)
        grad = checks_jacobian.check_grad(grad, grad_name, first, name)
        axes = checks_jacobian.check_axes(axis, first, name)
        dtype = first.dtype if first.dtype.isnative else first.dtype.newbyteorder("=")
        kind = checks_jacobian.kind_of(dtype)
        assert kind is not None  # check_floats has passed
        checks_jacobian.check_out(out, {name: first, grad_name: grad}, dtype)
        classes = math.prod(first.shape[one] for one in axes)
        compute_bytes = max(4, first.itemsize)
        workers = threads.plan(num_threads, first.size // classes, first.size * compute_bytes)
        rows, result = _rows_of(first, axes), JacobianOutput.of(first.shape, dtype, axes, out)
        problem = cls(
            grad=_rows_of(grad, axes),
            kind=kind,
            num_threads=workers,
            proba=None if is_log else rows,
            log_proba=rows if is_log else None,
        )
        return problem, result


@dataclass(slots=True)
class JacobianOutput:
    """The caller's array, and the rows of it, or of a buffer, that a backend fills."""

    array: Array
    rows: Array
    axes: tuple[int, ...]

    @classmethod
    def of(
        cls, shape: tuple[int, ...], dtype: np.dtype[Any], axes: tuple[int, ...], out: Array | None
    ) -> JacobianOutput:
        """Rows of `out`, or of a new array."""
        array = np.empty(shape, dtype) if out is None else out
        rows = _rows_of(array, axes)
        return cls(array, rows, axes)

    def deliver(self) -> Array:
        """Give the caller's array, after copying into it what could not be written directly."""
        if self.array.size and not np.may_share_memory(self.array, self.rows):
            moved = _classes_last(self.array, self.axes)
            moved[...] = self.rows.view(self.array.dtype).reshape(moved.shape)
        return self.array


def _classes_last(array: Array, axes: tuple[int, ...]) -> Array:
    if axes == tuple(range(array.ndim - len(axes), array.ndim)):
        return array
    return np.moveaxis(array, axes, tuple(range(-len(axes), 0)))


def _rows_of(array: Array, axes: tuple[int, ...]) -> Array:
    """Rows with the classes last: a view but where the byte order is foreign or none exists."""
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if array.itemsize == 2:
        array = array.view(np.uint16)
    moved = _classes_last(array, axes)
    if len(axes) > 1:  # class axes that do not merge into one are copied
        moved = moved.reshape(*moved.shape[: -len(axes)], -1)
    if moved.ndim == 2:
        return moved
    if moved.flags.c_contiguous:
        return moved.reshape(math.prod(moved.shape[:-1]), moved.shape[-1])
    sizes: list[int] = []
    strides: list[int] = []
    for size, stride in zip(moved.shape[:-1], moved.strides[:-1], strict=True):
        if size == 1:
            continue
        if sizes and strides[-1] == size * stride:
            sizes[-1], strides[-1] = sizes[-1] * size, stride
        else:
            sizes.append(size)
            strides.append(stride)
    if len(sizes) > _MOST_LEADING or not array.size:
        return np.ascontiguousarray(moved).reshape(math.prod(moved.shape[:-1]), moved.shape[-1])
    shape = (*(sizes or [1]), moved.shape[-1])
    steps = (*(strides or [0]), moved.strides[-1])
    return np.lib.stride_tricks.as_strided(moved, shape, steps)
