"""Loss and gradient from the statistics of all classes in PyTorch's own operators, on a GPU.

As `fastxent.torch.shard_formula`, which makes the statistics.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastxent.sharding.stats import ShardStats
from fastxent.side_outputs import Aux
from fastxent.torch.shard_formula import Labels, capped, labels_of, mass_of_classes, rows_of

__all__ = ["grad_from_stats", "loss_from_stats"]

_DOUBLE = torch.float64


@dataclass(slots=True)
class _Row:
    """What follows from the statistics, one number a row."""

    labels: Labels | None
    spike: Tensor
    total: Tensor
    top: Tensor
    sum: Tensor
    lse: Tensor
    denominator: Tensor | float

    def kept(self, numbers: Tensor, of_bad: float) -> Tensor:
        """0 for ignored rows, and for rows with a label outside of all classes what is said."""
        if self.labels is None:
            return numbers
        numbers = torch.where(self.labels.live, numbers, 0.0)
        return torch.where(self.labels.is_bad, of_bad, numbers)


def _row(
    stats: ShardStats,
    target: Tensor,
    num_classes: int,
    weight: Tensor | None,
    ignore_index: int | None,
    label_smoothing: float,
    reduction: str,
    normalizer: float | None,
    sample_weight: Tensor | None,
) -> _Row:
    labels = labels_of(target, ignore_index, num_classes)
    top, total_sum = stats.max[0], stats.sum[0]
    spike = torch.zeros_like(top)
    own = torch.ones_like(top)
    if labels is not None:
        if weight is not None:
            own = weight.to(top.device, _DOUBLE)[labels.target.clamp(0, num_classes - 1)]
        own = own * labels.live
        spike = own * (1.0 - label_smoothing)
    denominator: Tensor | float = 1.0
    if reduction == "mean":
        denominator = own.sum() if sample_weight is None else (own * sample_weight).sum()
        denominator = (
            denominator if normalizer is None else torch.full_like(denominator, normalizer)
        )
    return _Row(
        labels=labels,
        spike=spike,
        total=spike if stats.mass is None else spike + stats.mass[0],
        top=top,
        sum=total_sum,
        lse=top + torch.log(total_sum),
        denominator=denominator,
    )


def loss_from_stats(
    stats: ShardStats,
    target: Tensor,
    *,
    num_classes: int,
    weight: Tensor | None = None,
    ignore_index: int | None = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    normalizer: float | None = None,
    sample_weight: Tensor | None = None,
    z_loss: float = 0.0,
    all_ignored: str = "nan",
    aux: tuple[str, ...] = (),
    **_: Any,
) -> Any:
    """As `fastxent.loss_from_stats`."""
    given = num_classes, weight, ignore_index, label_smoothing, reduction, normalizer
    row = _row(stats, target, *given, sample_weight)
    log_sum = torch.log(row.sum)
    dot = torch.zeros_like(log_sum) if stats.dot is None else stats.dot[0]
    log_prob = dot - row.total * log_sum
    if stats.label_logit is not None:
        of_label = (stats.label_logit - row.top) - log_sum
        dot = dot + torch.where(row.spike != 0, row.spike * (stats.label_logit - row.top), 0.0)
        log_prob = of_label
    elif stats.bare_mass is not None:
        log_prob = stats.bare_dot[0] - stats.bare_mass[0] * log_sum
    extra = z_loss * row.lse**2 if z_loss else torch.zeros_like(log_sum)
    losses = row.kept(row.total * log_sum - dot + extra, math.nan)
    dtype = torch.float64 if stats.dtype.itemsize == 8 else torch.float32
    if sample_weight is not None:
        losses = losses * sample_weight
    if reduction != "none":
        losses = losses.sum() / row.denominator
    if reduction == "mean":
        empty = math.nan if all_ignored == "nan" else 0.0
        losses = torch.where(row.denominator == 0, empty, losses)
    if not aux:
        return losses.to(dtype)
    spread = torch.zeros_like(log_sum) if stats.spread is None else stats.spread[0]
    asides = {
        "lse": row.kept(row.lse, 0.0).to(dtype),
        "log_prob": row.kept(log_prob, math.nan).to(dtype),
        "entropy": row.kept(log_sum - spread / row.sum, 0.0).to(dtype),
        "z_loss": row.kept(extra, 0.0).to(dtype),
    }
    if stats.argmax is not None:
        is_none = torch.isnan(row.sum) | (row.sum == 0)
        if row.labels is not None:
            is_none = is_none | ~row.labels.live
        asides["argmax"] = torch.where(is_none, -1, stats.argmax[0])
        if row.labels is not None:
            asides["correct"] = asides["argmax"] == row.labels.target
    named = {name: asides[name] if name in aux else None for name in Aux._fields if name in asides}
    return losses.to(dtype), Aux(**named)


def grad_from_stats(
    logits: Tensor,
    target: Tensor,
    stats: ShardStats,
    *,
    class_offset: int,
    num_classes: int,
    weight: Tensor | None = None,
    ignore_index: int | None = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    normalizer: float | None = None,
    sample_weight: Tensor | None = None,
    z_loss: float = 0.0,
    softcap: float | None = None,
    logit_scale: float = 1.0,
    axis: int = -1,
    grad_output: Tensor | None = None,
    **_: Any,
) -> Tensor:
    """As `fastxent.grad_from_stats`."""
    given = num_classes, weight, ignore_index, label_smoothing, reduction, normalizer
    row = _row(stats, target, *given, sample_weight)
    x = rows_of(logits, axis, row.labels)
    z, slope = capped(x, softcap, logit_scale)
    scale: Any = 1.0 if grad_output is None else grad_output.to(_DOUBLE)
    scale = scale if sample_weight is None else scale * sample_weight
    scale = torch.zeros_like(row.top) + scale / row.denominator
    if reduction == "mean":
        scale = torch.where(row.denominator == 0, 0.0, scale)
    total = row.total + 2.0 * z_loss * row.lse if z_loss else row.total
    # the largest array is made in the dtype that computes, and changed in place
    grad = torch.exp(z - row.top.to(z.dtype).unsqueeze(-1))
    grad *= (total / row.sum).to(z.dtype).unsqueeze(-1)
    here = slice(class_offset, class_offset + z.shape[-1])
    mass = mass_of_classes(target, row.labels, weight, label_smoothing, here, axis, num_classes)
    if mass is not None:
        grad -= mass.to(z.dtype)
    if row.labels is not None and z.shape[-1]:
        local = row.labels.target - class_offset
        is_here = (local >= 0) & (local < z.shape[-1])
        spike = torch.where(is_here, row.spike, 0.0).to(z.dtype)
        grad.scatter_add_(-1, torch.where(is_here, local, 0).unsqueeze(-1), -spike.unsqueeze(-1))
    grad *= slope
    grad *= scale.to(z.dtype).unsqueeze(-1)
    if row.labels is not None:
        counts = row.labels.live & ~row.labels.is_bad
        grad = torch.where(counts.unsqueeze(-1), grad, 0.0)
    if reduction == "mean":
        grad = torch.where(row.denominator == 0, 0.0, grad)
    return grad.to(logits.dtype).movedim(-1, axis)
