"""vmap of the loss: one call over all samples, each with the denominator of its own mean."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastxent.checks import check_choice, check_normalizer
from fastxent.reduction import REDUCTIONS, WHEN_ALL_IGNORED
from fastxent.torch.settings import Settings

__all__ = ["batched_cross_entropy"]


def _front(tensor: Tensor | None, dim: int | None, size: int) -> Tensor | None:
    """The batch first; what has none is repeated, without a copy."""
    if tensor is None:
        return None
    if dim is None:
        return tensor.unsqueeze(0).expand(size, *tensor.shape)
    return tensor.movedim(dim, 0)


def batched_cross_entropy(
    operator: Callable[..., Any],
    info: Any,
    in_dims: tuple[int | None, ...],
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    sample_weight: Tensor | None,
    grad_output: Tensor | None,
    **options: Any,
) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """Merge the samples into rows that are not reduced, and reduce those of each sample."""
    size = info.batch_size
    check_normalizer(
        options["normalizer"], check_choice(options["reduction"], "reduction", REDUCTIONS)
    )
    given = logits, target, weight, sample_weight, grad_output
    tensors = [_front(one, dim, size) for one, dim in zip(given, in_dims[:5], strict=True)]
    if in_dims[2] is not None:  # class weights of each sample's own
        each = [operator(*[_sample(one, at) for one in tensors], **options) for at in range(size)]
        stacked = tuple(torch.stack(found) for found in zip(*each, strict=True))
        return stacked, (0,) * len(stacked)
    logits, target, _, rows_factor, upstream = tensors
    settings = Settings(**{name: options[name] for name in Settings._fields})
    check_choice(settings.all_ignored, "all_ignored", WHEN_ALL_IGNORED)
    axis = 1 if logits.dim() == 2 else 2
    rows_shape = logits.shape[:axis] + logits.shape[axis + 1 :]
    empty = None
    if settings.reduction == "mean":
        denominator = _denominator(target, logits, weight, rows_factor, rows_shape, settings)
        empty = denominator == 0
        share = torch.where(empty, 0.0, 1.0 / denominator)
        share = share.reshape(-1, *(1,) * (len(rows_shape) - 1)).expand(rows_shape)
        rows_factor = share if rows_factor is None else rows_factor * share
    if upstream is not None and settings.reduction != "none":
        upstream = upstream.reshape(-1, *(1,) * (len(rows_shape) - 1)).expand(rows_shape)
    options = {**options, "reduction": "none", "normalizer": None}
    merged = [_merge(one, rows_shape) for one in (logits, target)]
    factors = [None if one is None else _merge(one, rows_shape) for one in (rows_factor, upstream)]
    loss, grad, target_grad = operator(*merged, weight, *factors, **options)
    loss = loss.reshape(rows_shape)
    if settings.reduction != "none":
        loss = loss.reshape(size, math.prod(rows_shape[1:])).sum(1)
    if empty is not None:
        nothing = math.nan if settings.all_ignored == "nan" else 0.0
        loss = torch.where(empty, nothing, loss)
    grad = grad.reshape(logits.shape) if options["wants_grad"] else _nothing(grad, size)
    target_grad = (
        target_grad.reshape(target.shape)
        if options["wants_target_grad"]
        else _nothing(target_grad, size)
    )
    return (loss, grad, target_grad), (0, 0, 0)


def _sample(tensor: Tensor | None, at: int) -> Tensor | None:
    return None if tensor is None else tensor[at]


def _nothing(tensor: Tensor, size: int) -> Tensor:
    return tensor.new_empty(size, 0)


def _merge(tensor: Tensor, rows_shape: torch.Size) -> Tensor:
    """The samples beside the rows, where there is more than one row a sample."""
    return tensor.flatten(0, 1) if len(rows_shape) > 1 else tensor


def _denominator(
    target: Tensor,
    logits: Tensor,
    weight: Tensor | None,
    rows_factor: Tensor | None,
    rows_shape: torch.Size,
    settings: Settings,
) -> Tensor:
    size = logits.shape[0]
    if settings.normalizer is not None:
        return torch.full((size,), settings.normalizer, dtype=torch.float64, device=logits.device)
    mass = torch.ones(rows_shape, dtype=torch.float64, device=logits.device)
    if target.shape == rows_shape and not target.is_floating_point():
        live = torch.ones_like(target, dtype=torch.bool)
        if settings.ignore_index is not None:
            live = target != settings.ignore_index
        if weight is not None:
            inside = (target >= 0) & (target < weight.shape[0])
            mass = weight.double()[torch.where(inside, target, 0).long()]
        mass = mass * live
    if rows_factor is not None:
        mass = mass * rows_factor
    return mass.reshape(size, math.prod(rows_shape[1:])).sum(1)
