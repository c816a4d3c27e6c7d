"""Functions of one row."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastxent.backends.numba_cpu.jit import serial
from fastxent.backends.numba_cpu.labels import is_class
from fastxent.backends.numba_cpu.rows_in_code import row_loss, row_lse
from fastxent.numba.argument_types import are_probabilities, check_logits, check_out, compiled_as
from fastxent.numba.memory import (
    NO_LABEL,
    NOTHING,
    address,
    check_classes,
    check_rows,
    check_written,
)

__all__ = ["cross_entropy_row", "cross_entropy_row_and_grad", "logsumexp_row", "softmax_row"]


def cross_entropy_row(logits: Any, target: Any) -> Any:
    """Cross-entropy of one row.

    Parameters
    ----------
    logits : 1-D array of float32 or float64
        One number a class, side by side. A logit of -inf masks its class.
    target : int or 1-D array
        The class, or the probability of each class in the dtype of `logits`.

    Returns
    -------
    float
        In float64; rounded to the dtype of `logits` it is what `fastxent.cross_entropy` gives with
        ``reduction="none"``, bit for bit for more than 100 classes.

    Raises
    ------
    IndexError
        If the class is not in [0, C).
    ValueError
        If there is no class, a shape does not fit, or the classes do not lie side by side.

    Examples
    --------
    >>> import numpy as np
    >>> import fastxent.numba as fxn
    >>> round(fxn.cross_entropy_row(np.array([2.0, 1.0, 0.1]), 1), 3)
    1.417
    """
    return _loss(logits, target)


def cross_entropy_row_and_grad(logits: Any, target: Any, out: Any, grad_output: Any = 1.0) -> Any:
    """Cross-entropy of one row, and its gradient.

    Parameters
    ----------
    logits, target
        As in `cross_entropy_row`.
    out : 1-D array
        Where the gradient with respect to `logits` goes: their shape and dtype, maybe the logits
        themselves.
    grad_output : float, default 1.0
        Factor of the gradient, not of the loss: 1 / N for a mean over N rows.

    Returns
    -------
    float
        The loss, as from `cross_entropy_row`.

    Raises
    ------
    IndexError, ValueError
        As from `cross_entropy_row`; also if `out` overlaps an input. Nothing is written then.

    Examples
    --------
    >>> import numpy as np
    >>> import fastxent.numba as fxn
    >>> grad = np.empty(3)
    >>> loss = fxn.cross_entropy_row_and_grad(np.array([2.0, 1.0, 0.1]), 1, grad)
    >>> grad.round(2)
    array([ 0.66, -0.76,  0.1 ])
    """
    return _loss_and_grad(logits, target, out, grad_output)


def logsumexp_row(logits: Any) -> Any:
    """Logarithm of the sum of the exponentials of one row.

    Parameters
    ----------
    logits : 1-D array of float32 or float64
        As in `cross_entropy_row`.

    Returns
    -------
    float
        In float64: -inf where all logits are, +inf beside a +inf, NaN beside a NaN.

    Raises
    ------
    ValueError
        If there is no class, or the classes do not lie side by side.

    Examples
    --------
    >>> import numpy as np
    >>> import fastxent.numba as fxn
    >>> round(fxn.logsumexp_row(np.array([1000.0, 1000.0])), 3)
    1000.693
    """
    return _lse(logits)


def softmax_row(logits: Any, out: Any) -> Any:
    """Softmax of one row.

    Parameters
    ----------
    logits : 1-D array of float32 or float64
        As in `cross_entropy_row`.
    out : 1-D array
        Where the softmax goes: shape and dtype of `logits`, maybe the logits themselves. NaN beside
        a NaN or a +inf, and where all logits are -inf.

    Raises
    ------
    ValueError
        As from `logsumexp_row`; also if `out` overlaps the logits. Nothing is written then.

    Examples
    --------
    >>> import numpy as np
    >>> import fastxent.numba as fxn
    >>> logits = np.array([2.0, 1.0, 0.1])
    >>> fxn.softmax_row(logits, logits)
    >>> logits.round(3)
    array([0.659, 0.242, 0.099])
    """
    _softmax(logits, out)


@compiled_as(cross_entropy_row)
def _compile_loss(logits: Any, target: Any) -> Any:
    check_logits(logits, 1)
    if are_probabilities(target, logits):

        def of_probabilities(logits: Any, target: Any) -> Any:
            check_classes(logits)
            check_rows(target, logits)
            zero, z, t = logits.dtype.type(0), address(logits), address(target)
            return row_loss(z, len(logits), NO_LABEL, t, NOTHING, 1.0, 0.0, zero)

        return of_probabilities

    def of_label(logits: Any, target: Any) -> Any:
        check_classes(logits)
        label: Any = np.int64(target)
        z = address(logits)
        if not is_class(label, len(logits)):
            raise IndexError("target is no class of this row: it lies outside [0, C)")
        return row_loss(z, len(logits), label, z, NOTHING, 1.0, None, logits.dtype.type(0))

    return of_label


@compiled_as(cross_entropy_row_and_grad)
def _compile_loss_and_grad(logits: Any, target: Any, out: Any, grad_output: Any = 1.0) -> Any:
    check_logits(logits, 1)
    check_out(out, logits)
    if are_probabilities(target, logits):

        def of_probabilities(logits: Any, target: Any, out: Any, grad_output: Any = 1.0) -> Any:
            check_classes(logits)
            check_rows(target, logits)
            check_rows(out, logits)
            check_written(out, logits, True)
            check_written(out, target, False)
            zero, z, t, grad = logits.dtype.type(0), address(logits), address(target), address(out)
            return row_loss(z, len(logits), NO_LABEL, t, grad, np.float64(grad_output), 0.0, zero)

        return of_probabilities

    def of_label(logits: Any, target: Any, out: Any, grad_output: Any = 1.0) -> Any:
        check_classes(logits)
        check_rows(out, logits)
        check_written(out, logits, True)
        label: Any = np.int64(target)
        z, grad = address(logits), address(out)
        if not is_class(label, len(logits)):
            raise IndexError("target is no class of this row: it lies outside [0, C)")
        zero, scale = logits.dtype.type(0), np.float64(grad_output)
        return row_loss(z, len(logits), label, z, grad, scale, None, zero)

    return of_label


@compiled_as(logsumexp_row)
def _compile_lse(logits: Any) -> Any:
    check_logits(logits, 1)

    def lse(logits: Any) -> Any:
        check_classes(logits)
        return row_lse(address(logits), len(logits), NOTHING, logits.dtype.type(0))

    return lse


@compiled_as(softmax_row)
def _compile_softmax(logits: Any, out: Any) -> Any:
    check_logits(logits, 1)
    check_out(out, logits)

    def softmax(logits: Any, out: Any) -> Any:
        check_classes(logits)
        check_rows(out, logits)
        check_written(out, logits, True)
        row_lse(address(logits), len(logits), address(out), logits.dtype.type(0))

    return softmax


# Called from Python, a function is compiled on its own.


@serial
def _loss(logits: Any, target: Any) -> Any:
    return cross_entropy_row(logits, target)


@serial
def _loss_and_grad(logits: Any, target: Any, out: Any, grad_output: Any) -> Any:
    return cross_entropy_row_and_grad(logits, target, out, grad_output)


@serial
def _lse(logits: Any) -> Any:
    return logsumexp_row(logits)


@serial
def _softmax(logits: Any, out: Any) -> None:
    softmax_row(logits, out)
