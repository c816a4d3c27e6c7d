"""Softmax, its logarithm and its normaliser, over one axis or several."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastxent import checks, on_device
from fastxent.backends import pick
from fastxent.backends.contract import Outputs
from fastxent.interchange import home_of
from fastxent.layout import empty_aligned, join_axes, order_of, split_axes, take_rows
from fastxent.precision import Array, native, precision_of, widen
from fastxent.problem import Problem
from fastxent.side_outputs import lse_of

__all__ = ["log_softmax", "logsumexp", "softmax"]

Axes = int | tuple[int, ...] | None


def softmax(
    x: Any,
    axis: Axes = -1,
    *,
    out: Any = None,
    backend: str | None = None,
    num_threads: int | None = None,
) -> Any:
    """Softmax: ``exp(x) / sum(exp(x))`` over one or several axes, without overflow.

    Parameters
    ----------
    x : array_like of float16, bfloat16, float32 or float64
    axis : int, tuple of int, or None, default -1
        Any axis is read where it lies. Several are taken together, None stands for all of them;
        `x` is copied only if no view makes them one.
    out : array, optional
        Where the result goes: shape and dtype of `x`, any layout; ``out=x`` is allowed.
    backend, num_threads
        As in `cross_entropy`.

    Returns
    -------
    array
        Shape and dtype of `x`. NaN where a slice holds a NaN, +inf, or nothing but -inf.

    Raises
    ------
    ShapeError, DTypeError, OptionError, OutputError, BackendError
        As in `cross_entropy_and_grad`.

    Notes
    -----
    ``scipy.special.softmax`` gives the same, at every infinity and NaN too. It differs in its
    default axis, None, and in that it takes integers.

    Arrays of other libraries are taken and given back as in `cross_entropy`.

    Examples
    --------
    >>> import fastxent as fx
    >>> fx.softmax([2.0, 1.0, 0.1]).round(3)
    array([0.659, 0.242, 0.099])
    >>> fx.softmax([[0.0, 0.0], [0.0, 0.0]], axis=(0, 1))
    array([[0.25, 0.25],
           [0.25, 0.25]])
    """
    return _normalised("proba", x, axis, out, backend, num_threads)


def log_softmax(
    x: Any,
    axis: Axes = -1,
    *,
    out: Any = None,
    backend: str | None = None,
    num_threads: int | None = None,
) -> Any:
    """Logarithm of the softmax over one or several axes: ``x - logsumexp(x)``.

    Parameters
    ----------
    x, axis, out, backend, num_threads
        As in `softmax`.

    Returns
    -------
    array
        Shape and dtype of `x`. NaN where a slice holds a NaN, +inf, or nothing but -inf.

    Raises
    ------
    ShapeError, DTypeError, OptionError, OutputError, BackendError
        As in `cross_entropy_and_grad`.

    Notes
    -----
    Beside a +inf ``scipy.special.log_softmax`` gives -inf for finite entries, and NaN only for the
    infinite ones. Here the whole slice is NaN, as the softmax of both libraries is.

    Examples
    --------
    >>> import fastxent as fx
    >>> fx.log_softmax([1000.0, 0.0])
    array([    0., -1000.])
    """
    return _normalised("log_proba", x, axis, out, backend, num_threads)


def logsumexp(
    x: Any, axis: Axes = -1, *, backend: str | None = None, num_threads: int | None = None
) -> Any:
    """Logarithm of the sum of exponentials over one or several axes, without overflow.

    Parameters
    ----------
    x, axis, backend, num_threads
        As in `softmax`.

    Returns
    -------
    numpy scalar or array
        Shape of `x` without `axis`, dtype of `x`, float32 for half precision. -inf where every
        entry is -inf or there is none, +inf beside a +inf, NaN beside a NaN.

    Raises
    ------
    ShapeError, DTypeError, OptionError, BackendError
        As in `cross_entropy`.

    Notes
    -----
    ``scipy.special.logsumexp`` gives the same at infinities and NaN. It differs in its default
    axis, None, in that it takes integers and complex numbers, and rounds to half precision.

    For an array on a GPU the result beside a +inf is NaN.

    Examples
    --------
    >>> import fastxent as fx
    >>> import numpy as np
    >>> round(float(fx.logsumexp(np.array([1000.0, 1000.0]))), 3)
    1000.693
    """
    home = home_of(x)
    if home.is_on_device:
        return on_device.logsumexp(home, axis, backend, num_threads)
    joined = _Joined(x, axis, may_be_empty=True)
    if joined.classes == 0:
        checks.check_num_threads(1 if num_threads is None else num_threads)
        pick(backend)
        return home.give(np.full(joined.rows_shape, -np.inf, joined.loss_dtype)[()])
    problem = Problem.of_array(joined.x, joined.axis, num_threads)
    row_max = np.empty(problem.rows, problem.precision.compute)
    row_sum = np.empty(problem.rows)
    pick(backend, problem).softmax(problem, Outputs(row_max=row_max, row_sum=row_sum))
    lse = lse_of(row_max, row_sum)
    infinite = np.flatnonzero(row_max == np.inf)
    if infinite.size:  # where the sum is NaN: whether there is a NaN, only the logits can tell
        entries = widen(take_rows(problem.logits, infinite), problem.precision.kind)
        lse[infinite] = np.where(np.isnan(entries).any(axis=1), np.nan, np.inf)
    return home.give(lse.astype(problem.precision.loss).reshape(joined.rows_shape)[()])


class _Joined:
    """An argument with the axes of the classes made one: a view, or a copy where none does that.

    Attributes
    ----------
    given : array
        The caller's.
    x : array
        The same entries, the classes along `axis`.
    """

    def __init__(self, x: Any, axis: Any, may_be_empty: bool = False) -> None:
        may_be_scalar = axis is None or (isinstance(axis, tuple) and not axis)
        self.given = checks.check_logits(x, "x", may_be_scalar=may_be_scalar)
        axes = checks.check_axes(axis, self.given, may_be_empty)
        shape = self.given.shape
        self.classes = math.prod(shape[at] for at in axes)
        self.rows_shape = tuple(size for at, size in enumerate(shape) if at not in axes)
        self.axes: list[int] | None = None
        if len(axes) == 1:
            self.x, self.axis = self.given, axes[0]
            return
        self.axes, self.axis = order_of(self.given, axes), -1
        joined = join_axes(self.given, self.axes)
        if joined is None:
            dtype = native(self.given.dtype)
            copy = empty_aligned((*self.rows_shape, self.classes), dtype)
            self._split(copy)[...] = self.given
            joined = copy
        self.x = joined

    @property
    def loss_dtype(self) -> np.dtype[Any]:
        """Of one number a row."""
        precision = precision_of(self.given.dtype)
        assert precision is not None
        return precision.loss

    def _split(self, array: Array) -> Array:
        return array if self.axes is None else split_axes(array, self.given.shape, self.axes)

    def output(self, out: Array | None) -> Array | None:
        """View of `out` like that of x; None where there is none, and without an `out`."""
        if out is None or self.axes is None:
            return out
        checks.check_out(out, self.given, {}, self.given.shape, native(self.given.dtype), "x")
        return join_axes(out, self.axes)

    def deliver(self, result: Array, out: Array | None) -> Array:
        """The result in the shape of what was given; in `out` if there is one."""
        if self.axes is None:
            return result
        split = self._split(result)
        if out is None:
            return split
        if not np.may_share_memory(split, out):
            out[...] = split
        return out


def _normalised(
    name: str, x: Any, axis: Any, out: Any, backend: str | None, num_threads: int | None
) -> Any:
    home = home_of(x)
    if home.is_on_device:
        return on_device.normalised(name, home, axis, out, backend, num_threads)
    into = checks.as_output(out)
    if type(axis) is int:
        result = _over_one_axis(name, x, axis, into, backend, num_threads)
    else:
        joined = _Joined(x, axis)
        place = joined.output(into)
        result = _over_one_axis(name, joined.x, joined.axis, place, backend, num_threads)
        result = joined.deliver(result, into)
    return home.deliver(result, out)


def _over_one_axis(
    name: str, x: Any, axis: int, out: Array | None, backend: str | None, num_threads: int | None
) -> Array:
    problem = Problem.of_array(x, axis, num_threads, out)
    result = problem.new_output(out)
    outputs = Outputs(proba=result.rows) if name == "proba" else Outputs(log_proba=result.rows)
    pick(backend, problem).softmax(problem, outputs)
    return result.deliver()
