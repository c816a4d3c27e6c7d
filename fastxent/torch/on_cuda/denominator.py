"""The mean's denominator for tensors of a GPU: the host never sees its number."""

from __future__ import annotations

import torch
from torch import Tensor

from fastxent.torch.arrays import class_axis
from fastxent.torch.settings import Settings

__all__ = ["denominator"]


def denominator(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    sample_weight: Tensor | None,
    settings: Settings,
) -> tuple[Tensor, Tensor | None]:
    """Give what the sum of the losses is divided by, and whether a label is outside of the classes.

    Both tensors have no dimension; the second is None for probabilities.
    """
    axis = class_axis(logits)
    classes = logits.shape[axis]
    rows_shape = logits.shape[:axis] + logits.shape[axis + 1 :]
    mass = torch.ones(rows_shape, dtype=torch.float64, device=target.device)
    has_bad_label = None
    if not (target.is_floating_point() or target.dtype is torch.bool):
        labels = target.long()
        live = torch.ones_like(labels, dtype=torch.bool)
        if settings.ignore_index is not None:
            live = labels != settings.ignore_index
        inside = (labels >= 0) & (labels < classes)
        has_bad_label = (live & ~inside).any()
        if weight is not None:
            mass = weight.double()[torch.where(inside, labels, 0)]
        mass = mass * (live & inside)
    if settings.reduction != "mean":
        return torch.ones((), dtype=torch.float64, device=target.device), has_bad_label
    if settings.normalizer is not None:
        total = torch.full((), settings.normalizer, dtype=torch.float64, device=target.device)
        return total, has_bad_label
    return (mass if sample_weight is None else mass * sample_weight).sum(), has_bad_label
