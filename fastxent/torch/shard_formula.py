"""Statistics of a shard in PyTorch's own operators, for tensors on a GPU.

The functions of `fastxent.api.sharding` with their arguments, on tensors of any device. The host
waits for nothing, so values are not looked at: a label outside of all classes gives its row a NaN
loss and a gradient of 0. Terms are those of docs/math.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastxent.backends.contract import BLOCK
from fastxent.sharding.stats import ShardStats

__all__ = [
    "Labels",
    "capped",
    "labels_of",
    "mass_of_classes",
    "merge_stats",
    "partial_stats",
    "rows_of",
]

_OF_PARTS = ("max", "sum", "mass", "dot", "argmax", "spread", "bare_mass", "bare_dot")
_DOUBLE = torch.float64


@dataclass(slots=True)
class Labels:
    """Class indices of rows: which count, and which are outside of all classes."""

    target: Tensor
    live: Tensor
    is_bad: Tensor


def labels_of(target: Tensor, ignore_index: int | None, num_classes: int) -> Labels | None:
    """Class indices; None for probabilities."""
    if target.is_floating_point() or target.dtype is torch.bool:
        return None
    target = target.long()
    live = torch.ones_like(target, dtype=torch.bool)
    if ignore_index is not None:
        live = target != ignore_index
    return Labels(target, live, live & ((target < 0) | (target >= num_classes)))


def capped(x: Tensor, softcap: float | None, scale: float) -> tuple[Tensor, Tensor | float]:
    """Logits as they count, and their slope."""
    if softcap is None:
        return x * scale, scale
    z = softcap * torch.tanh(x * (scale / softcap))
    return z, scale * (1.0 - (z / softcap) ** 2)


def rows_of(logits: Tensor, axis: int, labels: Labels | None) -> Tensor:
    """Logits in the dtype that computes, their classes last; those of ignored rows are 0."""
    dtype = _DOUBLE if logits.dtype is _DOUBLE else torch.float32
    x = logits.movedim(axis, -1).to(dtype)
    return x if labels is None else torch.where(labels.live.unsqueeze(-1), x, 0.0)


def mass_of_classes(
    target: Tensor,
    labels: Labels | None,
    weight: Tensor | None,
    smoothing: float,
    here: slice,
    axis: int,
    num_classes: int,
) -> Tensor | None:
    """Target mass of some classes but for that on a label itself; None where there is none."""
    device = target.device
    if weight is None:
        own = torch.ones(here.stop - here.start, dtype=_DOUBLE, device=device)
    else:
        own = weight.to(device, _DOUBLE)[here]
    background = own * (smoothing / num_classes)
    if labels is None:
        return own * (1.0 - smoothing) * target.movedim(axis, -1).to(_DOUBLE) + background
    return background * labels.live.unsqueeze(-1) if smoothing else None


def partial_stats(
    logits: Tensor,
    target: Tensor,
    *,
    class_offset: int,
    num_classes: int,
    weight: Tensor | None = None,
    ignore_index: int | None = -100,
    label_smoothing: float = 0.0,
    softcap: float | None = None,
    logit_scale: float = 1.0,
    axis: int = -1,
    aux: tuple[str, ...] = (),
    by_block: bool = False,
    **_: Any,
) -> ShardStats:
    """As `fastxent.partial_stats`."""
    labels = labels_of(target, ignore_index, num_classes)
    z, _slope = capped(rows_of(logits, axis, labels), softcap, logit_scale)
    end = class_offset + z.shape[-1]
    mass = mass_of_classes(
        target, labels, weight, label_smoothing, slice(class_offset, end), axis, num_classes
    )
    bare = None
    if labels is None and "log_prob" in aux and (weight is not None or label_smoothing):
        bare = target.movedim(axis, -1).to(_DOUBLE)
    step = BLOCK if by_block else max(z.shape[-1], 1)
    begins = range(0, z.shape[-1], step)
    parts = [
        _part(
            z[..., begin : begin + step],
            None if mass is None else mass[..., begin : begin + step],
            None if bare is None else bare[..., begin : begin + step],
            class_offset + begin,
            aux,
        )
        for begin in begins
    ] or [_part(z, mass, bare, 0, aux)]
    label_logit = None
    if labels is not None:
        local = labels.target - class_offset
        is_here = labels.live & (local >= 0) & (local < z.shape[-1])
        label_logit = torch.zeros(local.shape, dtype=_DOUBLE, device=z.device)
        if z.shape[-1]:
            found = z.gather(-1, torch.where(is_here, local, 0).unsqueeze(-1)).squeeze(-1)
            label_logit = torch.where(is_here, found.to(_DOUBLE), 0.0)
    kept = len(begins)
    arrays = {
        name: None if parts[0][name] is None else torch.stack([part[name] for part in parts])[:kept]
        for name in _OF_PARTS
    }
    dtype = np.dtype(np.float64 if logits.dtype is _DOUBLE else np.float32)
    return ShardStats(
        **arrays,
        label_logit=label_logit,
        first_class=tuple(class_offset + begin for begin in begins),
        classes=tuple(min(step, z.shape[-1] - begin) for begin in begins),
        dtype=dtype,
        by_block=by_block,
    )


def _part(
    z: Tensor, mass: Tensor | None, bare: Tensor | None, first_class: int, aux: tuple[str, ...]
) -> dict[str, Tensor | None]:
    found: dict[str, Tensor | None] = dict.fromkeys(_OF_PARTS)
    if z.shape[-1]:
        top, place = z.nan_to_num(-math.inf, math.inf, -math.inf).max(-1)
    else:
        top = z.sum(-1) - math.inf
        place = torch.zeros_like(top, dtype=torch.int64)
    down = z - torch.where(top == -math.inf, 0.0, top).unsqueeze(-1)
    e = torch.exp(down)
    found["max"], found["sum"] = top.to(_DOUBLE), e.sum(-1, dtype=_DOUBLE)
    for names, t in ((("mass", "dot"), mass), (("bare_mass", "bare_dot"), bare)):
        if t is not None:
            found[names[0]] = t.sum(-1)
            found[names[1]] = torch.where(t != 0, t * down, 0.0).sum(-1)
    if "entropy" in aux:
        found["spread"] = torch.where(e == 0, 0.0, e * down).sum(-1, dtype=_DOUBLE)
    if "argmax" in aux or "correct" in aux:
        found["argmax"] = place + first_class
    return found


def merge_stats(*stats: ShardStats) -> ShardStats:
    """All parts as one, in the order that they are given in."""
    together: dict[str, Any] = {
        name: torch.cat([getattr(one, name) for one in stats])
        for name in _OF_PARTS
        if getattr(stats[0], name) is not None
    }
    maxima = together["max"]
    top = maxima.amax(0, keepdim=True)
    # the first of equal ones, which `max` over a dimension does not promise
    first = (maxima == top).to(torch.int8).argmax(0, keepdim=True)
    factor = torch.where(maxima == top, 1.0, torch.exp(maxima - top))
    down = torch.where(maxima == -math.inf, 0.0, maxima) - torch.where(top == -math.inf, 0.0, top)
    sums = together["sum"]
    merged: dict[str, Any] = {"max": top, "sum": (sums * factor).sum(0, keepdim=True)}
    for mass, dot in (("mass", "dot"), ("bare_mass", "bare_dot")):
        if mass in together:
            t = together[mass]
            merged[mass] = t.sum(0, keepdim=True)
            lowered = torch.where(t != 0, t * down, 0.0)
            merged[dot] = (together[dot] + lowered).sum(0, keepdim=True)
    if "spread" in together:
        spread = torch.where(factor != 0, (together["spread"] + sums * down) * factor, 0.0)
        merged["spread"] = spread.sum(0, keepdim=True)
    if "argmax" in together:
        merged["argmax"] = together["argmax"].gather(0, first)
    if stats[0].label_logit is not None:
        merged["label_logit"] = torch.stack([one.label_logit for one in stats]).sum(0)
    end = max(begin + size for one in stats for begin, size in _runs(one))
    merged |= {"first_class": (0,), "classes": (end,), "by_block": False}
    return stats[0]._replace(**merged)


def _runs(stats: ShardStats) -> Any:
    return zip(stats.first_class, stats.classes, strict=True)
