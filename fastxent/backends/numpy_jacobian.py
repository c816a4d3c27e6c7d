"""The verb softmax_backward with NumPy only: rows in groups that stay in cache."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from fastxent.precision import Array

if TYPE_CHECKING:
    from fastxent.jacobian import JacobianProblem

__all__ = ["softmax_backward"]

_GROUP = 1 << 18  # elements, as in numpy.py


def _widened(stored: Array, kind: str) -> Array:
    """Numbers in the compute dtype."""
    if kind == "float16":
        return stored.view(np.float16).astype(np.float32)
    if kind == "bfloat16":
        return (stored.astype(np.uint32) << 16).view(np.float32)
    return stored


def _stored(numbers: Array, kind: str) -> Array:
    """Numbers as they are stored, rounded to the nearest, ties to even."""
    if kind == "float16":
        return numbers.astype(np.float16).view(np.uint16)
    if kind == "bfloat16":
        bits = np.ascontiguousarray(numbers).view(np.uint32)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        return np.where(np.isnan(numbers), (bits >> 16) | 0x40, rounded).astype(np.uint16)
    return numbers


def _groups(shape: tuple[int, ...]) -> Iterator[tuple[Any, ...]]:
    """Indices of groups of rows: some of the first dimension with leading entries, in C order."""
    *leading, last, classes = shape
    step = max(1, _GROUP // classes)
    for place in np.ndindex(*leading):
        for start in range(0, last, step):
            yield (*place, slice(start, start + step))


def softmax_backward(problem: JacobianProblem, out: Array) -> None:
    """Fill `out` with the Jacobian product."""
    first = problem.log_proba if problem.proba is None else problem.proba
    assert first is not None
    arrays, shape = [first, problem.grad, out], out.shape
    if not first.shape == problem.grad.shape == shape:
        # leading dimensions that each array has merged in its own way
        classes = shape[-1]
        first, grad = (array.reshape(-1, classes) for array in arrays[:2])
        result = np.empty_like(first)
        _fill(first, grad, result, problem)
        out[...] = result.reshape(shape)
        return
    _fill(first, problem.grad, out, problem)


def _fill(first: Array, grad: Array, out: Array, problem: JacobianProblem) -> None:
    kind = problem.kind
    if not math.prod(out.shape):
        return
    with np.errstate(all="ignore"):
        for group in _groups(out.shape):
            p, g = _widened(first[group], kind), _widened(grad[group], kind)
            if problem.proba is None:
                total = g.sum(axis=-1, keepdims=True, dtype=np.float64).astype(g.dtype)
                product = g - np.exp(p) * total
            else:
                total = np.sum(p * g, axis=-1, keepdims=True, dtype=np.float64).astype(g.dtype)
                product = p * (g - total)
            out[group] = _stored(product, kind)
