"""One call of the loss: what is fixed when it is traced, and the arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

__all__ = ["LOSS_ALONE", "LossOptions", "Operands", "Wants"]


@dataclass(frozen=True, slots=True)
class LossOptions:
    """Options of the loss, checked; hashable, as JAX needs them.

    Attributes
    ----------
    rank : int
        Dimensions of the logits of one call; `jax.vmap` puts more in front.
    trailing : int
        Dimensions after that of the classes.
    ignore_index : int or None
        A label that the dtype of the target can hold.
    """

    rank: int
    trailing: int
    ignore_index: int | None
    label_smoothing: float
    reduction: str
    z_loss: float
    softcap: float | None
    logit_scale: float
    all_ignored: str
    num_threads: int | None

    @property
    def axis(self) -> int:
        """The class axis, counted from the back, where further dimensions do not move it."""
        return -1 - self.trailing


class Operands(NamedTuple):
    """The arrays of a call; None for what was not given.

    Attributes
    ----------
    logits, target : array
    weight : (C,) array of the compute dtype, or None
    row_weight : array of the compute dtype and the rows' shape, or None
    denominator : scalar of the compute dtype, or None
    """

    logits: Any
    target: Any
    weight: Any = None
    row_weight: Any = None
    denominator: Any = None


class Wants(NamedTuple):
    """What a pass shall write beside the loss.

    Attributes
    ----------
    grad, target_grad : bool
    sums : bool
        Each row's largest transformed logit m, and its sum of exp(z - m), in the compute dtype;
        not where the mean's denominator is 0.
    """

    grad: bool = False
    target_grad: bool = False
    sums: bool = False


LOSS_ALONE = Wants()
