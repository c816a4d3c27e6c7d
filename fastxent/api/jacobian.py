"""The public Jacobian products of softmax and log-softmax."""

from __future__ import annotations

from typing import Any

from fastxent import checks, on_device
from fastxent.backends import pick
from fastxent.interchange import home_of
from fastxent.jacobian import JacobianProblem

__all__ = ["log_softmax_backward", "softmax_backward"]

Axes = int | tuple[int, ...] | None


def softmax_backward(
    p: Any,
    grad_p: Any,
    axis: Axes = -1,
    *,
    out: Any = None,
    backend: str | None = None,
    num_threads: int | None = None,
) -> Any:
    """Gradient through a softmax: ``p * (grad_p - sum(p * grad_p))`` along an axis.

    Parameters
    ----------
    p : array_like of float16, bfloat16, float32 or float64
        The softmax; its rows need not sum to one. Of any layout, without a copy.
    grad_p : array_like
        Gradient with respect to `p`; the shape and dtype of `p`.
    axis : int, tuple of int or None, default -1
        Where the classes are; None is all axes. Several axes are taken together; an array is
        copied only if no view makes them one.
    out : array, optional
        Where the result goes: shape and dtype of `p`; ``out=p`` and ``out=grad_p`` are allowed.
    backend, num_threads
        As in `cross_entropy`.

    Returns
    -------
    array
        Gradient with respect to what the softmax was taken of; shape and dtype of `p`.

    Raises
    ------
    ShapeError, DTypeError, OptionError, OutputError, BackendError
        As in `cross_entropy_and_grad`.

    Notes
    -----
    The sum is added up in float32 (float64 for float64) within 1,024 classes and in float64
    across them. A NaN stays in its row, and so does an infinite gradient beside a probability of
    0, whose product is NaN.

    Arrays of other libraries are taken and given back as in `cross_entropy`.

    Examples
    --------
    >>> import fastxent as fx
    >>> p = fx.softmax([2.0, 1.0, 0.1])
    >>> fx.softmax_backward(p, [1.0, 0.0, 0.0]).round(3)
    array([ 0.225, -0.16 , -0.065])
    """
    return _product(p, grad_p, axis, out, backend, num_threads, is_log=False)


def log_softmax_backward(
    log_p: Any,
    grad: Any,
    axis: Axes = -1,
    *,
    out: Any = None,
    backend: str | None = None,
    num_threads: int | None = None,
) -> Any:
    """Gradient through a log-softmax: ``grad - exp(log_p) * sum(grad)`` along an axis.

    Parameters
    ----------
    log_p : array_like of float16, bfloat16, float32 or float64
        The log-softmax: the logarithm of a probability, at most 0 but for rounding.
    grad : array_like
        Gradient with respect to `log_p`; the shape and dtype of `log_p`.
    axis, out, backend, num_threads
        As in `softmax_backward`; ``out=log_p`` and ``out=grad`` are allowed.

    Returns
    -------
    array
        Gradient with respect to what the log-softmax was taken of; shape and dtype of `log_p`.

    Raises
    ------
    ShapeError, DTypeError, OptionError, OutputError, BackendError
        As in `cross_entropy_and_grad`.

    Examples
    --------
    >>> import fastxent as fx
    >>> log_p = fx.log_softmax([2.0, 1.0, 0.1])
    >>> fx.log_softmax_backward(log_p, [-1.0, 0.0, 0.0]).round(3)
    array([-0.341,  0.242,  0.099])
    """
    return _product(log_p, grad, axis, out, backend, num_threads, is_log=True)


def _product(
    first: Any,
    grad: Any,
    axis: Axes,
    out: Any,
    backend: str | None,
    num_threads: int | None,
    is_log: bool,
) -> Any:
    home = home_of(first)
    if home.is_on_device:
        return on_device.jacobian_product(home, grad, axis, out, backend, num_threads, is_log)
    into = checks.as_output(out)
    problem, result = JacobianProblem.build(first, grad, axis, num_threads, into, is_log=is_log)
    pick(backend).softmax_backward(problem, result.rows)
    return home.deliver(result.deliver(), out)
