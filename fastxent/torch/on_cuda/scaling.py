"""Gradients times the upstream gradient, which the host never sees."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fastxent.device_array import DeviceArray
from fastxent.on_device.arrays import Arrays
from fastxent.torch.arrays import class_axis
from fastxent.torch.on_cuda.arrays import kind_and_rows, settled
from fastxent.torch.on_cuda.calls import call, key_of

__all__ = ["scaled"]


def scaled(grad: Tensor, grad_output: Tensor, is_kept: bool) -> Tensor:
    """Give the gradient times the upstream one; what is not kept is changed, and not for 1.

    Whether the upstream gradient is 1 the kernel finds out: then it returns at once.
    """
    out = torch.empty_like(grad) if is_kept else grad
    if not grad.numel():
        return out
    source, into = (grad, out) if grad.dim() else (grad.reshape(1), out.reshape(1))

    def compute(arrays: Arrays, given: Mapping[str, Any]) -> dict[str, DeviceArray]:
        kind, rows = kind_and_rows(given["grad"], class_axis(source))
        _, written = kind_and_rows(given.get("out", given["grad"]), class_axis(source))
        arrays.backend.scale(rows, kind, given["grad_output"].reshape(-1), written)
        return {}

    tensors = {
        "grad": source,
        "grad_output": settled(grad_output, "grad_output").contiguous(),
        "out": into if is_kept else None,
    }
    call(None, key_of("scale"), tensors, compute)
    return out
