"""The binary loss of tensors on a GPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fastxent.device_array import DeviceArray
from fastxent.on_device.arrays import Arrays
from fastxent.on_device.binary import build, run
from fastxent.torch.binary_formula import loss_dtype
from fastxent.torch.on_cuda.arrays import settled
from fastxent.torch.on_cuda.calls import call, key_of

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
            # what is on the GPU is divided there, and so is the sum
            reduction, divisor = "sum", logits.numel()
        grad_output = (grad_output.to(dtype) / max(divisor, 1)).expand(logits.shape)
    # the kernel takes factors in the dtype that computes
    weight, pos_weight = (
        None if one is None else one.detach().to(dtype) for one in (weight, pos_weight)
    )
    grad = torch.empty_like(logits) if wants_grad else None
    losses = torch.empty_like(logits, dtype=dtype) if reduction == "none" else None
    factors = {"weight": weight, "pos_weight": pos_weight, "grad_output": grad_output}
    options = {
        "reduction": reduction,
        "label_smoothing": label_smoothing,
        "num_threads": num_threads,
    }

    def compute(arrays: Arrays, given: Mapping[str, Any]) -> dict[str, DeviceArray]:
        here = options | {name: given.get(name) for name in factors}
        checked = build(arrays, given["target"], here, None)
        total = run(arrays, checked, given.get("grad"), given.get("loss"))
        return {"loss": total} if losses is None else {}

    key = key_of("binary", reduction, label_smoothing, num_threads)
    inputs = {"logits": logits, "target": target, **factors}
    tensors = {name: settled(tensor, name) for name, tensor in inputs.items()}
    found = call(backend, key, {**tensors, "grad": grad, "loss": losses}, compute)
    loss = found["loss"] if losses is None else losses
    return loss if divisor == 1 else loss / divisor, logits.new_empty(0) if grad is None else grad
