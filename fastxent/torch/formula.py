"""The loss and the derivative of its gradient in PyTorch's own operators.

For what no kernel computes: second and higher derivatives, and forward mode. The terms are those
of docs/math.md: t the mass of the target, T its sum, z the scaled and capped logits, L their lse,

    loss = T L - <t, z> + z_loss L^2,    grad = row * dz/dx * ((T + 2 z_loss L) softmax(z) - t)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fastxent.torch.arrays import class_axis
from fastxent.torch.settings import Settings

__all__ = ["Terms", "gradients_of_gradients", "loss", "terms_of"]


@dataclass(slots=True)
class Terms:
    """The terms of the formula, in the dtype that computes; rows have their class axis, of 1."""

    axis: int
    z: Tensor
    slope: Tensor | float  # dz/dx
    bend: Tensor | float  # d slope / dz
    gain: Tensor | float  # dt/dq
    mass: Tensor
    total: Tensor
    row: Tensor | float  # sample weight over the mean's denominator, 0 for an ignored row
    nothing_counted: Tensor | None  # whether the denominator is 0


def _along_classes(values: Tensor, axis: int, dim: int) -> Tensor:
    return values.reshape([-1 if at == axis else 1 for at in range(dim)])


def terms_of(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    sample_weight: Tensor | None,
    settings: Settings,
) -> Terms:
    """Terms for these arguments; nothing is checked."""
    axis, classes = class_axis(logits), logits.shape[class_axis(logits)]
    dtype = logits.dtype if logits.dtype is torch.float64 else torch.float32
    x, smoothing = logits.to(dtype), settings.label_smoothing
    weights: Tensor | float = 1.0
    if weight is not None:
        weights = _along_classes(weight.to(dtype), axis, logits.dim())
    background = weights * (smoothing / classes)
    gain = weights * (1.0 - smoothing)
    row = None if sample_weight is None else sample_weight.to(dtype).unsqueeze(axis)
    if target.shape == logits.shape and not _holds_labels(target):
        mass = gain * target.to(dtype) + background
        counted = torch.ones_like(x.narrow(axis, 0, 1))
        counted_mass = counted if row is None else row.expand_as(counted)
        factor = row
    else:
        label = target.long().unsqueeze(axis)
        ignore_index = settings.ignore_index
        live = torch.ones_like(label, dtype=torch.bool)
        if ignore_index is not None:
            live = label != ignore_index
        classes_along = _along_classes(
            torch.arange(classes, device=logits.device), axis, logits.dim()
        )
        spike = (classes_along == label).to(dtype)
        counted_mass = (weights * spike).sum(axis, keepdim=True) * live
        if row is not None:
            counted_mass = counted_mass * row
        mass = (gain * spike + background) * live
        factor = live.to(dtype) if row is None else live * row
        x = torch.where(live, x, 0.0)
    z, slope, bend = _capped(x, settings)
    nothing_counted = None
    if settings.reduction == "mean":
        denominator = (
            counted_mass.sum()
            if settings.normalizer is None
            else torch.as_tensor(settings.normalizer, dtype=dtype, device=logits.device)
        )
        nothing_counted = denominator == 0
        share = torch.where(nothing_counted, 0.0, 1.0 / denominator)
        factor = share if factor is None else factor * share
    return Terms(
        axis=axis,
        z=z,
        slope=slope,
        bend=bend,
        gain=gain,
        mass=mass,
        total=mass.sum(axis, keepdim=True),
        row=1.0 if factor is None else factor,
        nothing_counted=nothing_counted,
    )


def _holds_labels(target: Tensor) -> bool:
    return not (target.is_floating_point() or target.dtype is torch.bool)


def _capped(x: Tensor, settings: Settings) -> tuple[Tensor, Tensor | float, Tensor | float]:
    scale, cap = settings.logit_scale, settings.softcap
    if cap is None:
        return x * scale, scale, 0.0
    # a class at -inf stays masked; its derivatives are those of the constant, whatever the order
    masked = torch.isneginf(x)
    z = cap * torch.tanh(torch.where(masked, 0.0, x) * (scale / cap))
    slope = torch.where(masked, 0.0, scale * (1.0 - (z / cap) ** 2))
    bend = torch.where(masked, 0.0, -2.0 * scale / cap**2 * z)
    return torch.where(masked, -math.inf, z), slope, bend


def loss(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    sample_weight: Tensor | None,
    settings: Settings,
) -> Tensor:
    """Compute the loss itself."""
    terms = terms_of(logits, target, weight, sample_weight, settings)
    lse = torch.logsumexp(terms.z, terms.axis, keepdim=True)
    log_prob = torch.log_softmax(terms.z, terms.axis)
    # a class without mass costs nothing, at -inf too
    absent = (terms.mass == 0) & torch.isneginf(log_prob)
    losses = -(terms.mass * torch.where(absent, 0.0, log_prob)).sum(terms.axis, keepdim=True)
    losses = ((losses + settings.z_loss * lse**2) * terms.row).squeeze(terms.axis)
    if settings.reduction == "none":
        return losses
    if terms.nothing_counted is None:
        return losses.sum()
    empty = math.nan if settings.all_ignored == "nan" else 0.0
    return torch.where(terms.nothing_counted, empty, losses.sum())


def gradients_of_gradients(
    arguments: tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None],
    settings: Settings,
    of_grad: Tensor | None,
    of_target_grad: Tensor | None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Pull cotangents of the two gradients back to logits, target and upstream gradient."""
    logits, target, weight, sample_weight, grad_output = arguments
    terms = terms_of(logits, target, weight, sample_weight, settings)
    axis = terms.axis
    row = terms.row
    if grad_output is not None:
        upstream = grad_output.to(terms.z.dtype)
        row = row * (upstream.unsqueeze(axis) if upstream.dim() else upstream)
    lse = torch.logsumexp(terms.z, axis, keepdim=True)
    p = torch.softmax(terms.z, axis)
    to_z = torch.zeros_like(p)
    to_target = torch.zeros_like(p)
    of_row = torch.zeros_like(lse)
    if of_grad is not None:
        of_grad = of_grad.to(p.dtype)
        share = terms.total + 2.0 * settings.z_loss * lse
        rest = share * p - terms.mass
        u = of_grad * terms.slope
        up = (u * p).sum(axis, keepdim=True)
        to_z = to_z + share * p * (u - up) + 2.0 * settings.z_loss * p * up
        to_z = to_z + of_grad * terms.bend * rest
        to_target = to_target + (up - u) * terms.gain
        of_row = of_row + (u * rest).sum(axis, keepdim=True)
    if of_target_grad is not None:
        w = of_target_grad.to(p.dtype) * terms.gain
        to_z = to_z + p * w.sum(axis, keepdim=True) - w
        of_row = of_row - (w * torch.log_softmax(terms.z, axis)).sum(axis, keepdim=True)
    soft = not _holds_labels(target) and target.shape == logits.shape
    to_grad_output = None
    if grad_output is not None:
        rows = (of_row * terms.row).squeeze(axis)
        to_grad_output = (rows if grad_output.dim() else rows.sum()).to(grad_output.dtype)
    return (
        (row * terms.slope * to_z).to(logits.dtype),
        (row * to_target).to(target.dtype) if soft else None,
        to_grad_output,
    )
