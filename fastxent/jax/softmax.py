"""Softmax, its logarithm and its normaliser, with derivatives of any order."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from fastxent import checks
from fastxent.jax.handlers import call_softmax, share_threads
from fastxent.jax.reading import checked_threads, fixed, stand_in

__all__ = ["log_softmax", "logsumexp", "softmax"]

Axes = int | tuple[int, ...] | None


def softmax(x: Any, axis: Axes = -1, *, num_threads: int | None = None) -> jax.Array:
    """Softmax: ``exp(x) / sum(exp(x))`` over one or several axes, without overflow.

    Parameters
    ----------
    x : array_like of float16, bfloat16, float32 or float64
    axis : int, tuple of int, or None, default -1
        Any axis is read where it lies. Several are moved together first, None stands for all.
    num_threads : int, optional
        At least 1; by default `fastxent.get_num_threads()`, fewer for small arrays.

    Returns
    -------
    jax.Array
        Shape and dtype of `x`. NaN where a slice holds a NaN, +inf, or nothing but -inf.

    Raises
    ------
    ShapeError, DTypeError, OptionError
        As in `fastxent.softmax`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import fastxent.jax
    >>> [round(float(p), 3) for p in fastxent.jax.softmax(jnp.array([2.0, 1.0, 0.1]))]
    [0.659, 0.242, 0.099]
    """
    return _over(_softmax, x, axis, num_threads)


def log_softmax(x: Any, axis: Axes = -1, *, num_threads: int | None = None) -> jax.Array:
    """Logarithm of the softmax over one or several axes: ``x - logsumexp(x)``.

    Parameters
    ----------
    x, axis, num_threads
        As in `softmax`.

    Returns
    -------
    jax.Array
        Shape and dtype of `x`. NaN where a slice holds a NaN, +inf, or nothing but -inf.

    Raises
    ------
    ShapeError, DTypeError, OptionError
        As in `fastxent.log_softmax`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import fastxent.jax
    >>> fastxent.jax.log_softmax(jnp.array([1000.0, 0.0])).tolist()
    [0.0, -1000.0]
    """
    return _over(_log_softmax, x, axis, num_threads)


def logsumexp(x: Any, axis: Axes = -1, *, num_threads: int | None = None) -> jax.Array:
    """Logarithm of the sum of exponentials over one or several axes, without overflow.

    Parameters
    ----------
    x, axis, num_threads
        As in `softmax`.

    Returns
    -------
    jax.Array
        Shape of `x` without `axis`, dtype of `x`, float32 for half precision. -inf where every
        entry is -inf, +inf beside a +inf, NaN beside a NaN.

    Raises
    ------
    ShapeError, DTypeError, OptionError
        As in `fastxent.logsumexp`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import fastxent.jax
    >>> round(float(fastxent.jax.logsumexp(jnp.array([1000.0, 1000.0]))), 3)
    1000.693
    """
    return _over(_logsumexp, x, axis, num_threads)


def _over(function: Any, x: Any, axis: Any, num_threads: Any) -> Any:
    """Apply over axes made one, the last, where they are several; over one where it lies."""
    x, axis = jnp.asarray(x), fixed(axis, "axis")
    may_be_scalar = axis is None or axis == ()
    shaped = checks.check_logits(stand_in(x), "x", may_be_scalar=may_be_scalar)
    axes = checks.check_axes(axis, shaped, may_be_empty=False, name="x")
    threads = checked_threads(num_threads)
    share_threads()
    if len(axes) == 1:
        return function(x.ndim - 1 - axes[0], threads, x)
    last = tuple(range(x.ndim - len(axes), x.ndim))
    moved = jnp.moveaxis(x, axes, last)
    joined = moved.reshape(*moved.shape[: last[0]] if last else moved.shape, _size(x, axes))
    result = function(0, threads, joined)
    if result.ndim < joined.ndim:
        return result
    return jnp.moveaxis(result.reshape(moved.shape), last, axes)


def _size(x: Any, axes: tuple[int, ...]) -> int:
    return math.prod(x.shape[at] for at in axes)


def _sum(trailing: int, values: Any) -> Any:
    return jnp.sum(values, axis=-1 - trailing, keepdims=True)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _softmax(trailing: int, threads: int | None, x: Any) -> Any:
    return call_softmax("softmax", x, trailing, threads)[0]


def _softmax_jvp(trailing: int, threads: int | None, primals: Any, tangents: Any) -> Any:
    proba = _softmax(trailing, threads, *primals)
    return proba, _softmax_tangent(trailing, proba, *tangents)


_softmax.defjvp(_softmax_jvp)


def _softmax_tangent(trailing: int, proba: Any, dot: Any) -> Any:
    p, wide = _widened(proba), _widened(dot)
    return (p * (wide - _sum(trailing, p * wide))).astype(dot.dtype)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _log_softmax(trailing: int, threads: int | None, x: Any) -> Any:
    return call_softmax("log_softmax", x, trailing, threads)[0]


def _log_softmax_jvp(trailing: int, threads: int | None, primals: Any, tangents: Any) -> Any:
    log_proba, (dot,) = _log_softmax(trailing, threads, *primals), tangents
    wide = _widened(dot)
    mean = _sum(trailing, jnp.exp(_widened(log_proba)) * wide)
    return log_proba, (wide - mean).astype(dot.dtype)


_log_softmax.defjvp(_log_softmax_jvp)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _logsumexp(trailing: int, threads: int | None, x: Any) -> Any:
    return call_softmax("logsumexp", x, trailing, threads)[0]


def _logsumexp_jvp(trailing: int, threads: int | None, primals: Any, tangents: Any) -> Any:
    (lse, proba), (dot,) = _both(trailing, threads, *primals), tangents
    return lse, _logsumexp_tangent(trailing, proba, dot)


_logsumexp.defjvp(_logsumexp_jvp)


def _logsumexp_tangent(trailing: int, proba: Any, dot: Any) -> Any:
    return jnp.squeeze(_sum(trailing, _widened(proba) * _widened(dot)), -1 - trailing)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _both(trailing: int, threads: int | None, x: Any) -> Any:
    return tuple(call_softmax("logsumexp and softmax", x, trailing, threads))


def _both_jvp(trailing: int, threads: int | None, primals: Any, tangents: Any) -> Any:
    (lse, proba), (dot,) = _both(trailing, threads, *primals), tangents
    tangent = _logsumexp_tangent(trailing, proba, dot), _softmax_tangent(trailing, proba, dot)
    return (lse, proba), tangent


_both.defjvp(_both_jvp)


def _widened(values: Any) -> Any:
    """Half precision in float32, in which sums are taken."""
    return values.astype(jnp.float32) if values.dtype.itemsize == 2 else values
