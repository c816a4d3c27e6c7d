"""The binary loss of tensors on a GPU."""

from __future__ import annotations

import torch
from torch import Tensor

from fastxent.device_array import DeviceArray
from fastxent.on_device.arrays import Arrays
from fastxent.on_device.binary import build, run
from fastxent.torch.binary_formula import loss_dtype
from fastxent.torch.on_cuda.arrays import plain, settled
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
        **{name: settled(factor, name) for name, factor in factors.items()},
        "reduction": reduction,
        "label_smoothing": label_smoothing,
        "num_threads": num_threads,
    }
    given, labels = settled(logits), settled(target, "target")

    def compute(arrays: Arrays) -> dict[str, DeviceArray]:
        here = {name: plain(value) for name, value in options.items()}
        checked = build(arrays, plain(labels), here, None)
        into, loss = (None if one is None else arrays.read(one, "out") for one in (grad, losses))
        total = run(arrays, checked, into, loss)
        return {"loss": total} if losses is None else {}

    key = key_of("binary", reduction, label_smoothing, num_threads)
    tensors = given, labels, *(options[name] for name in factors), grad, losses
    found = call(backend, "logits", key, tensors, compute)
    loss = found["loss"] if losses is None else losses
    return loss if divisor == 1 else loss / divisor, logits.new_empty(0) if grad is None else grad
