"""The binary loss of tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastxent.backends import pick
from fastxent.binary import BinaryCall
from fastxent.torch.arrays import array_of, storage_of, team, tensor_of
from fastxent.torch.binary_formula import loss_dtype

__all__ = ["binary"]


def _factor(values: Tensor | None) -> Any:
    """Factors in a dtype that NumPy has; the door converts any other."""
    return None if values is None else array_of(values)


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
    storage = storage_of(logits)
    place = None
    if wants_grad and not logits.is_contiguous():
        place = array_of(torch.empty_like(logits), storage)
    checked = BinaryCall.build(
        array_of(logits, storage),
        array_of(target, storage, "target"),
        weight=_factor(weight),
        pos_weight=_factor(pos_weight),
        grad_output=_factor(grad_output),
        label_smoothing=label_smoothing,
        reduction=reduction,
        num_threads=team(num_threads, 0, logits.numel() * logits.itemsize),
        out=place,
        storage=storage,
    )
    loss, grad = checked.run(pick(backend), wants_grad)
    if reduction == "none" and not logits.is_contiguous():
        loss = torch.empty_like(logits, dtype=loss_dtype(logits)).copy_(tensor_of(loss))
    else:
        loss = tensor_of(loss)
    return loss, logits.new_empty(0) if grad is None else tensor_of(grad, storage)
