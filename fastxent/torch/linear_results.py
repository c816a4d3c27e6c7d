"""From the losses and gradients of rows to what was asked for: factors, reductions, no rows."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastxent.torch.linear_arguments import LinearArguments, LinearFound, Wants
from fastxent.torch.settings import Settings

__all__ = ["factor_of_rows", "has_skipped", "put_zeros", "reduced", "skipped_rows"]


def factor_of_rows(
    arguments: LinearArguments, settings: Settings, divisor: Tensor, grad_output: Tensor | None
) -> Tensor | None:
    """What multiplies the gradient of each row's own loss; None for 1."""
    factors = [] if arguments.sample_weight is None else [arguments.sample_weight.double()]
    if settings.reduction == "mean":
        factors.append(torch.where(divisor == 0, 0.0, 1.0 / divisor))
    if grad_output is not None:
        factors.append(grad_output.detach().double())
    return math.prod(factors[1:], start=factors[0]) if factors else None


def reduced(
    losses: Tensor,
    arguments: LinearArguments,
    settings: Settings,
    divisor: Tensor,
    has_bad_label: Tensor | None,
) -> Tensor:
    """Reduce the losses of rows; sums run in float64."""
    weighted = losses
    if arguments.sample_weight is not None:
        weighted = losses.double() * arguments.sample_weight.double()
    if settings.reduction == "none":
        return weighted.to(losses.dtype)
    total = weighted.sum(dtype=torch.float64)
    if settings.reduction == "sum":
        return total.to(losses.dtype)
    empty = torch.full_like(total, math.nan if settings.all_ignored == "nan" else 0.0)
    if has_bad_label is not None:
        empty = empty.masked_fill(has_bad_label, math.nan)
    return torch.where(divisor == 0, empty, total / divisor).to(losses.dtype)


def put_zeros(found: LinearFound, arguments: LinearArguments, wants: Wants) -> None:
    """Gradients of a mean over nothing."""
    for name in ("input", "linear_weight", "linear_bias"):
        if getattr(wants, name):
            given: Tensor = getattr(arguments, name)
            zeros = torch.zeros_like(given, memory_format=torch.contiguous_format)
            setattr(found, name, zeros)


def skipped_rows(arguments: LinearArguments, settings: Settings, rows: slice) -> Tensor | None:
    """Which rows of `input` have ignored labels only; None where no label is ignored."""
    target, skip = arguments.target, settings.ignore_index
    if target.is_floating_point() or target.dtype is torch.bool or skip is None:
        return None
    return (target[rows].flatten(1) == skip).all(1) if target.dim() > 1 else target[rows] == skip


def has_skipped(arguments: LinearArguments, settings: Settings, may_look: bool) -> bool:
    """Whether there are rows whose numbers are not to be looked at; the labels tell, if we may."""
    skipped = skipped_rows(arguments, settings, slice(None))
    return skipped is not None and (not may_look or bool(skipped.any()))
