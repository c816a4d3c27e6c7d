"""Functions of many rows: the mean loss, computed on the calling thread."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types

from fastxent.backends.numba_cpu.jit import inlined, serial
from fastxent.backends.numba_cpu.labels import is_class
from fastxent.backends.numba_cpu.means_in_code import mean_of_rows
from fastxent.numba.argument_types import (
    are_probabilities,
    check_logits,
    check_out,
    compiled_as,
    refuse,
)
from fastxent.numba.memory import NOTHING, address, check_classes, check_rows, check_written

__all__ = ["cross_entropy", "cross_entropy_and_grad"]

_NO_SKIP = np.bool_(False)


def cross_entropy(logits: Any, target: Any, ignore_index: int | None = -100) -> Any:
    """Mean cross-entropy of the rows of a 2-D array.

    Parameters
    ----------
    logits : 2-D array of float32 or float64
        A row for each sample, its classes side by side.
    target : 1-D array of integers, or 2-D array
        The class of each row, or probabilities of the shape and dtype of `logits`.
    ignore_index : int or None, default -100
        Rows with this label count for nothing. None turns this off. Probabilities have no labels.

    Returns
    -------
    float
        In float64; rounded to the dtype of `logits` it is what `fastxent.cross_entropy` gives, bit
        for bit. NaN where no row counts.

    Raises
    ------
    IndexError
        If a label is neither in [0, C) nor `ignore_index`; `fastxent.check_labels` names it.
    ValueError
        If there is no class, a shape does not fit, or classes do not lie side by side.

    Examples
    --------
    >>> import numpy as np
    >>> import fastxent.numba as fxn
    >>> round(fxn.cross_entropy(np.zeros((4, 10)), np.array([3, 1, 4, 1])), 4)
    2.3026
    """
    return _mean(logits, target, ignore_index)


def cross_entropy_and_grad(
    logits: Any, target: Any, out: Any, ignore_index: int | None = -100
) -> Any:
    """Mean cross-entropy of the rows of a 2-D array, and its gradient.

    Parameters
    ----------
    logits, target, ignore_index
        As in `cross_entropy`.
    out : 2-D array
        Where the gradient goes: shape and dtype of `logits`, maybe the logits themselves. Ignored
        rows hold 0.

    Returns
    -------
    float
        The loss, as from `cross_entropy`.

    Raises
    ------
    IndexError, ValueError
        As from `cross_entropy`; also if `out` overlaps an input. Nothing is written then.

    Examples
    --------
    >>> import numpy as np
    >>> import fastxent.numba as fxn
    >>> grad = np.empty((2, 2))
    >>> loss = fxn.cross_entropy_and_grad(np.zeros((2, 2)), np.array([0, 1]), grad)
    >>> grad
    array([[-0.25,  0.25],
           [ 0.25, -0.25]])
    """
    return _mean_and_grad(logits, target, out, ignore_index)


@inlined
def _counted(target: Any, classes: int, has_skip: Any, skip: int) -> Any:
    """Rows that are not skipped; -1 where a label is no class."""
    live, skipped = 0, 0
    for row in range(len(target)):
        label = np.int64(target[row])
        is_skip = has_skip & (label == skip)
        skipped += is_skip
        live += (not is_skip) & is_class(label, classes)
    return live if live + skipped == len(target) else -1


@inlined
def _check_labels(target: Any, logits: Any) -> None:
    if len(target) != len(logits):
        raise ValueError("target needs one label for each row of the logits")
    if len(target) > 1 and target.strides[0] != target.itemsize:
        raise ValueError("labels must lie side by side: np.ascontiguousarray(target)")


@inlined
def _check_counted(counted: int) -> None:
    if counted < 0:
        raise IndexError(
            "target holds a label that is neither in [0, C) nor ignore_index: "
            "fastxent.check_labels(target, C) names it"
        )


def _has_skip(ignore_index: Any) -> Any:
    """Whether labels are ignored, told by the type."""
    given = getattr(ignore_index, "value", ignore_index)  # of an argument left out, its default
    if given is None or isinstance(given, types.NoneType):
        return _NO_SKIP
    if not isinstance(given, int | types.Integer):
        refuse(f"ignore_index must be an integer or None; it is {ignore_index}")
    return np.bool_(True)


@compiled_as(cross_entropy)
def _compile_mean(logits: Any, target: Any, ignore_index: Any = -100) -> Any:
    check_logits(logits, 2)
    has_skip = _has_skip(ignore_index)
    if are_probabilities(target, logits):

        def of_probabilities(logits: Any, target: Any, ignore_index: Any = -100) -> Any:
            check_classes(logits)
            check_rows(target, logits)
            rows, classes = logits.shape
            if rows == 0:
                return np.nan
            return mean_of_rows(
                address(logits),
                rows,
                classes,
                logits.strides[0],
                NOTHING,
                NOTHING,
                _NO_SKIP,
                NOTHING,
                address(target),
                target.strides[0],
                NOTHING,
                NOTHING,
                rows,
                0.0,
                0.0,
                logits.dtype.type(0),
            )

        return of_probabilities
    kind = _kind_of(target)
    # a negative label in an unsigned dtype does not exist, though 2**64 - 100 has the bits of -100
    is_signed = np.bool_(target.dtype.signed)

    def of_labels(logits: Any, target: Any, ignore_index: Any = -100) -> Any:
        check_classes(logits)
        _check_labels(target, logits)
        skip: Any = np.int64(ignore_index) if has_skip else NOTHING
        skips = has_skip & (is_signed | (skip >= 0))
        rows, classes = logits.shape
        counted = _counted(target, classes, skips, skip)
        _check_counted(counted)
        if counted == 0:
            return np.nan
        return mean_of_rows(
            address(logits),
            rows,
            classes,
            logits.strides[0],
            address(target),
            kind,
            skips,
            skip,
            NOTHING,
            NOTHING,
            NOTHING,
            NOTHING,
            counted,
            None,
            None,
            logits.dtype.type(0),
        )

    return of_labels


def _kind_of(target: Any) -> Any:
    """Bytes of a label, negative for unsigned ones, as labels.py has it."""
    size = np.int64(target.dtype.bitwidth // 8)
    return size if target.dtype.signed else -size


@compiled_as(cross_entropy_and_grad)
def _compile_mean_and_grad(logits: Any, target: Any, out: Any, ignore_index: Any = -100) -> Any:
    check_logits(logits, 2)
    check_out(out, logits)
    has_skip = _has_skip(ignore_index)
    if are_probabilities(target, logits):

        def of_probabilities(logits: Any, target: Any, out: Any, ignore_index: Any = -100) -> Any:
            check_classes(logits)
            check_rows(target, logits)
            check_rows(out, logits)
            check_written(out, logits, True)
            check_written(out, target, False)
            rows, classes = logits.shape
            if rows == 0:
                return np.nan
            return mean_of_rows(
                address(logits),
                rows,
                classes,
                logits.strides[0],
                NOTHING,
                NOTHING,
                _NO_SKIP,
                NOTHING,
                address(target),
                target.strides[0],
                address(out),
                out.strides[0],
                rows,
                0.0,
                0.0,
                logits.dtype.type(0),
            )

        return of_probabilities
    kind = _kind_of(target)
    # a negative label in an unsigned dtype does not exist, though 2**64 - 100 has the bits of -100
    is_signed = np.bool_(target.dtype.signed)

    def of_labels(logits: Any, target: Any, out: Any, ignore_index: Any = -100) -> Any:
        check_classes(logits)
        _check_labels(target, logits)
        check_rows(out, logits)
        check_written(out, logits, True)
        check_written(out, target, False)
        skip: Any = np.int64(ignore_index) if has_skip else NOTHING
        skips = has_skip & (is_signed | (skip >= 0))
        rows, classes = logits.shape
        counted = _counted(target, classes, skips, skip)
        _check_counted(counted)
        if counted == 0:
            out[:] = 0.0
            return np.nan
        return mean_of_rows(
            address(logits),
            rows,
            classes,
            logits.strides[0],
            address(target),
            kind,
            skips,
            skip,
            NOTHING,
            NOTHING,
            address(out),
            out.strides[0],
            counted,
            None,
            None,
            logits.dtype.type(0),
        )

    return of_labels


# Called from Python, a function is compiled on its own.


@serial
def _mean(logits: Any, target: Any, ignore_index: Any) -> Any:
    return cross_entropy(logits, target, ignore_index)


@serial
def _mean_and_grad(logits: Any, target: Any, out: Any, ignore_index: Any) -> Any:
    return cross_entropy_and_grad(logits, target, out, ignore_index)
