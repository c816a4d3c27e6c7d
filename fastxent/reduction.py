"""From losses of rows to what the caller asked for: none, sum or mean, and the mean's denominator.

The denominator depends on the targets only, so it is known before the pass over the logits and
the gradient leaves the kernel with its final scale.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastxent.precision import Array

__all__ = ["REDUCTIONS", "WHEN_ALL_IGNORED", "Reduction"]

REDUCTIONS = ("none", "mean", "sum")
WHEN_ALL_IGNORED = ("nan", "zero")


@dataclass(frozen=True, slots=True)
class Reduction:
    """How rows become one loss.

    Attributes
    ----------
    kind : {"none", "mean", "sum"}
    normalizer : float or None
        The mean's denominator, where the caller gave it.
    all_ignored : {"nan", "zero"}
        Loss of a mean whose denominator is 0.
    rows_shape : tuple of int
        Shape of the logits without the class axis.
    class_mass : (C,) float64 array or None
        Class weights, as far as the mean's denominator counts them.
    row_weight : (N,) float64 array or None
        Weight of each row's loss.
    grad_output : float, (N,) float64 array, or None
        Upstream gradient.
    """

    kind: str
    normalizer: float | None
    all_ignored: str
    rows_shape: tuple[int, ...]
    class_mass: Array | None
    row_weight: Array | None
    grad_output: float | Array | None

    @property
    def needs_mass(self) -> bool:
        """Whether the denominator is the mass of the targets."""
        return self.kind == "mean" and self.normalizer is None

    def denominator(self, mass: float) -> float:
        """What the sum of the rows is divided by, for targets of this total mass."""
        if self.kind != "mean":
            return 1.0
        return mass if self.normalizer is None else self.normalizer

    def row_scale(self, denominator: float, later: float | Array | None = None) -> float | Array:
        """Factor of each row's gradient, one number or one a row.

        `later` is an upstream gradient that became known after the others.
        """
        factors = [f for f in (self.row_weight, self.grad_output, later) if f is not None]
        with np.errstate(all="ignore"):  # infinite factors are the caller's, and no reason to warn
            return math.prod(factors, start=1.0) / denominator

    @property
    def needs_total_only(self) -> bool:
        """Whether the sum of the losses is enough: no weights of rows, no loss of each."""
        return self.kind != "none" and self.row_weight is None

    def of_total(self, total: float, denominator: float, loss_type: type[np.floating[Any]]) -> Any:
        """Reduce a sum of the rows' losses."""
        with np.errstate(all="ignore"):
            return loss_type(np.float64(total) / denominator)

    def finish(self, loss: Array, denominator: float) -> Any:
        """Reduce the rows' losses; sums run in float64, in the fixed order of NumPy's pairwise sum.

        Of one row, `none` gives a scalar as every reduction does.
        """
        with np.errstate(all="ignore"):
            # weights are float64, so that a float32 loss is rounded once
            weighted = loss if self.row_weight is None else loss * self.row_weight
            if self.kind == "none":
                return weighted.astype(loss.dtype, copy=False).reshape(self.rows_shape)[()]
            total = np.sum(weighted, dtype=np.float64)
            return loss.dtype.type(total / denominator)

    def nothing_counted(self, loss_type: type[np.floating[Any]]) -> Any:
        """Loss of a mean over a denominator of 0."""
        return loss_type(0.0 if self.all_ignored == "zero" else math.nan)
