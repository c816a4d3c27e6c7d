"""Rows of any layout and dtype as C-ordered matrices to compute with, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fastxent.precision import Array, narrow, widen

if TYPE_CHECKING:
    from fastxent.problem import Problem

__all__ = ["Rows", "column", "load", "logits_of", "mass_of", "of_rows", "store"]

# Rows of one group: all of them, or those that are not skipped.
Rows = slice | Array


def _index(rows: Array, numbers: Rows) -> Any:
    """What picks the rows of these numbers out of any leading dimensions."""
    if rows.ndim == 2:
        return numbers
    if isinstance(numbers, slice):
        numbers = np.arange(numbers.start, numbers.stop)
    return np.unravel_index(numbers, rows.shape[:-1])


def load(stored: Array, kind: str, rows: Rows, dtype: np.dtype[Any]) -> Array:
    """(n, C) matrix of some rows in the dtype to compute with; maybe a view of them.

    C-ordered, as only along contiguous memory NumPy adds pairwise, and a row's bits must not
    depend on the layout.
    """
    values = widen(stored[_index(stored, rows)], kind)
    return np.require(values, dtype, ["C_CONTIGUOUS", "ALIGNED"])


def store(stored: Array, kind: str, rows: Rows, values: Array | float) -> None:
    """Write some rows: the converse of `load`."""
    if isinstance(values, np.ndarray):
        values = narrow(values, kind)
    stored[_index(stored, rows)] = values


def of_rows(value: float | Array, rows: Rows) -> float | Array:
    """Factor of each of these rows, or the one of all."""
    return value[rows] if isinstance(value, np.ndarray) else value


def column(values: float | Array, dtype: np.dtype[Any]) -> Array:
    """Factors of rows, to multiply a matrix with."""
    return np.asarray(values, dtype).reshape(-1, 1)


def logits_of(problem: Problem, rows: Rows) -> tuple[Array, Array | None]:
    """z of these rows, and 1 - (z / softcap)^2 if there is a cap."""
    precision = problem.precision
    number = precision.compute.type
    x = load(problem.logits, precision.kind, rows, precision.compute)
    if problem.softcap is None:
        return (x if problem.logit_scale == 1.0 else x * number(problem.logit_scale)), None
    bent = np.tanh(x * number(problem.logit_scale / problem.softcap))
    # -inf masks its class: the cap would make it -softcap, and give it mass
    z = np.where(np.isneginf(x), x, bent * number(problem.softcap))
    return z, 1 - bent * bent


def mass_of(problem: Problem, rows: Rows) -> Array:
    """t of these rows for probabilities, in the compute dtype."""
    assert problem.soft is not None
    assert problem.soft_kind is not None
    mass = load(problem.soft, problem.soft_kind, rows, problem.precision.compute)
    if problem.gain is not None:
        mass = mass * problem.gain
    if problem.background is not None:
        mass = mass + problem.background
    return mass
