"""The verb softmax_backward with NumPy only: rows in groups that stay in cache."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from fastxent.backends.numpy_rows import column, load, store
from fastxent.precision import Array

if TYPE_CHECKING:
    from fastxent.jacobian import JacobianProblem

__all__ = ["softmax_backward"]

_GROUP = 1 << 18  # elements, as in numpy.py


def softmax_backward(problem: JacobianProblem, out: Array) -> None:
    """Fill `out` with the Jacobian product."""
    kind, compute = problem.precision.kind, problem.precision.compute
    *leading, classes = out.shape
    number, step = math.prod(leading), max(1, _GROUP // classes)
    with np.errstate(all="ignore"):
        for start in range(0, number, step):
            group = slice(start, min(start + step, number))
            g = load(problem.grad, kind, group, compute)
            if problem.proba is not None:
                p = load(problem.proba, kind, group, compute)
                total = np.sum(p * g, axis=1, dtype=np.float64)
                store(out, kind, group, p * (g - column(total, compute)))
            else:
                assert problem.log_proba is not None
                p = np.exp(load(problem.log_proba, kind, group, compute))
                total = np.sum(g, axis=1, dtype=np.float64)
                store(out, kind, group, g - p * column(total, compute))
