"""The binary loss of tensors on a GPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastxent.interchange import home_of
from fastxent.on_device import (
    binary_cross_entropy_with_logits,
    binary_cross_entropy_with_logits_and_grad,
)
from fastxent.torch.binary_formula import loss_dtype
from fastxent.torch.on_cuda.arrays import plain, whole

__all__ = ["binary"]


def binary(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    pos_weight: Tensor | None,
    grad_output: Tensor | None,
    *,
    wants_grad: bool,
    reduction: str,
    label_smoothing: float,
    backend: str | None,
    num_threads: int | None,
) -> tuple[Tensor, Tensor]:
    """Loss, and gradient, empty where it is not wanted."""
    dtype = loss_dtype(logits)
    divisor = 1
    if grad_output is not None:
        if reduction == "mean":
            # the mean of what is on the GPU is divided there; of nothing it is NaN
            reduction, divisor = "sum", logits.numel()
        grad_output = (grad_output.to(dtype) / max(divisor, 1)).expand(logits.shape)
    options = {
        "weight": None if weight is None else plain(weight).to(dtype),
        "pos_weight": None if pos_weight is None else plain(pos_weight).to(dtype),
        "grad_output": plain(grad_output),
        "reduction": reduction,
        "label_smoothing": label_smoothing,
        "num_threads": num_threads,
    }
    home, labels = home_of(plain(logits)), plain(target)
    grad: Any = logits.new_empty(0)
    if wants_grad:
        place = None if logits.is_contiguous() else torch.empty_like(logits)
        loss, grad = binary_cross_entropy_with_logits_and_grad(
            home, labels, options, backend, place
        )
    else:
        loss = binary_cross_entropy_with_logits(home, labels, options, backend)
    if reduction == "none" and not logits.is_contiguous():
        loss = torch.empty_like(logits, dtype=dtype).copy_(loss)
    return whole(loss) if divisor == 1 else loss / divisor, grad
