"""A mean whose denominator is a tensor of a GPU: its number stays there."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastxent.torch.arrays import class_axis
from fastxent.torch.devices import check_tensors

__all__ = ["divided_rows", "unless_empty"]


def divided_rows(logits: Tensor, sample_weight: Tensor | None, normalizer: Tensor) -> Tensor:
    """Weights of the rows over the denominator of the mean, 0 where that is 0."""
    factors = {} if sample_weight is None else {"sample_weight": sample_weight}
    check_tensors(input=logits, normalizer=normalizer, **factors)
    share = torch.where(normalizer == 0, 0.0, 1.0 / normalizer.double()).reshape(())
    if sample_weight is not None:
        # a number alone would be rounded to the dtype of the weights
        return sample_weight.double() * share
    axis = class_axis(logits)
    return share.expand(logits.shape[:axis] + logits.shape[axis + 1 :])


def unless_empty(loss: Tensor, divisor: Tensor, all_ignored: str) -> Tensor:
    """The loss, or what it is where the denominator of the mean is 0."""
    return torch.where(divisor == 0, math.nan if all_ignored == "nan" else 0.0, loss)
