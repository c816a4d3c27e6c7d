"""Factors of the gradients of some rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastxent.linear.problem import LinearProblem
from fastxent.precision import Array

__all__ = ["row_factors"]


def row_factors(call: LinearProblem, start: int, stop: int, live: Array | None) -> Any:
    """Those of the rows that count: one number, or a column of them."""
    scale = call.problem.row_scale
    if not isinstance(scale, np.ndarray):
        return scale
    part = scale[start:stop]
    return (part if live is None else part[live])[:, None]
