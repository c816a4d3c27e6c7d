"""The binary loss and its derivatives in PyTorch's own operators.

For what no kernel computes: second and higher derivatives, forward mode, the slope of the target.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

__all__ = ["gradients_of_gradient", "loss", "loss_dtype", "target_slope"]


def loss_dtype(logits: Tensor) -> torch.dtype:
    """The dtype of losses, which computes."""
    return torch.float64 if logits.dtype is torch.float64 else torch.float32


def _softplus(x: Tensor) -> Tensor:
    # PyTorch's softplus cuts off at 20, where float64 has digits left
    return -torch.nn.functional.logsigmoid(-x)


def _product(mass: Any, x: Tensor) -> Tensor:
    """``mass * softplus(x)``; a side without mass costs nothing, at infinity too."""
    absent = torch.as_tensor(mass == 0, device=x.device)
    return mass * _softplus(torch.where(absent, 0.0, x))


def _terms(arguments: list[Any], options: dict[str, Any]) -> tuple[Any, ...]:
    """Logits and target that compute, weight over the mean's denominator, weight of the ones."""
    logits, target, weight, pos_weight, _ = arguments
    dtype = loss_dtype(logits)
    factor = 1.0 if weight is None else weight.to(dtype)
    if options["reduction"] == "mean":
        factor = factor / (logits.numel() or math.nan)
    ones = 1.0 if pos_weight is None else pos_weight.to(dtype)
    return logits.to(dtype), target.to(dtype), factor, ones


def target_slope(arguments: list[Any], options: dict[str, Any]) -> Tensor:
    """Derivative of the sum of the losses with respect to the target."""
    x, _, factor, ones = _terms(arguments, options)
    # without a weight of the ones the difference is -x, which keeps its digits
    slope = -x if arguments[3] is None else _product(ones, -x) - _softplus(x)
    slope = slope * factor * (1.0 - options["label_smoothing"])
    return torch.as_tensor(slope)


def _masses(y: Tensor, ones: Any, smoothing: float) -> tuple[Any, Any]:
    gain, background = 1.0 - smoothing, smoothing / 2
    return ones * (gain * y + background), gain * (1.0 - y) + background


def gradients_of_gradient(
    arguments: list[Any], options: dict[str, Any], cotangent: Tensor
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Pull a cotangent of the gradient back to logits, target and upstream gradient."""
    logits, target, _, _, grad_output = arguments
    x, y, factor, ones = _terms(arguments, options)
    smoothing = options["label_smoothing"]
    positive, negative = _masses(y, ones, smoothing)
    p, q = torch.sigmoid(x), torch.sigmoid(-x)
    upstream = 1.0 if grad_output is None else grad_output.to(x.dtype)
    v = cotangent.to(x.dtype) * factor
    to_logits = v * upstream * (positive + negative) * p * q
    to_target = -v * upstream * (1.0 - smoothing) * (p + ones * q)
    to_upstream = None
    if grad_output is not None:
        to_upstream = v * (negative * p - positive * q)
        to_upstream = (to_upstream if grad_output.dim() else to_upstream.sum()).to(
            grad_output.dtype
        )
    return to_logits.to(logits.dtype), to_target.to(target.dtype), to_upstream


def loss(arguments: list[Any], options: dict[str, Any]) -> Tensor:
    """The loss in plain operators, for forward mode."""
    x, y, factor, ones = _terms(arguments, options)
    positive, negative = _masses(y, ones, options["label_smoothing"])
    losses = factor * (_product(positive, -x) + _product(negative, x))
    if options["reduction"] == "none":
        return losses
    is_empty_mean = options["reduction"] == "mean" and not x.numel()
    return losses.sum() + (math.nan if is_empty_mean else 0.0)
