"""One call of the loss behind a linear layer: what is fixed when it is traced, and the arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from fastxent.jax.operands import LossOptions

__all__ = ["NOTHING", "LinearOperands", "LinearOptions", "LinearWants"]


@dataclass(frozen=True, slots=True)
class LinearOptions:
    """Options of the loss behind a linear layer, checked; hashable, as JAX needs them.

    Attributes
    ----------
    loss : LossOptions
        Those of the loss, for logits of shape (N, C).
    compute : numpy.dtype
        Of the logits and of all sums.
    memory_budget : float or None
    grad_filter : float
        0 for none.
    moved : bool
        Whether the arrays of the call are copies, made to have rows in front.
    """

    loss: LossOptions
    compute: np.dtype[Any]
    memory_budget: Any
    grad_filter: float
    moved: bool


class LinearOperands(NamedTuple):
    """The arrays of a call; None for what was not given.

    Attributes
    ----------
    hidden : (N, D) array
    linear_weight : (C, D) array
    target : (N,) array of integers or (N, C) array
    linear_bias : (C,) array, or None
    weight : (C,) array of the compute dtype, or None
    row_weight : (N,) array of the compute dtype, or None
    denominator : scalar of the compute dtype, or None
    """

    hidden: Any
    linear_weight: Any
    target: Any
    linear_bias: Any = None
    weight: Any = None
    row_weight: Any = None
    denominator: Any = None


class LinearWants(NamedTuple):
    """Which gradients shall come beside the loss."""

    hidden: bool = False
    linear_weight: bool = False
    target: bool = False
    linear_bias: bool = False


NOTHING = LinearWants()
