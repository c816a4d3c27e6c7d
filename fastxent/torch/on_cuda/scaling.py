"""Gradients times the upstream gradient, which the host never sees."""

from __future__ import annotations

import torch
from torch import Tensor

from fastxent.device_array import DeviceArray
from fastxent.on_device.arrays import Arrays
from fastxent.torch.arrays import class_axis
from fastxent.torch.on_cuda.arrays import kind_and_rows, plain, settled
from fastxent.torch.on_cuda.calls import call

__all__ = ["scaled"]


def scaled(grad: Tensor, grad_output: Tensor, is_kept: bool) -> Tensor:
    """Give the gradient times the upstream one; what is not kept is changed, and not for 1.

    Whether the upstream gradient is 1 the kernel finds out: then it returns at once.
    """
    out = torch.empty_like(grad) if is_kept else grad
    if not grad.numel():
        return out
    source, into = (grad, out) if grad.dim() else (grad.reshape(1), out.reshape(1))
    upstream = settled(grad_output)
    if not upstream.is_contiguous():
        upstream = upstream.contiguous()

    def compute(arrays: Arrays) -> dict[str, DeviceArray]:
        kind, rows = kind_and_rows(arrays.first, class_axis(source))
        factor = arrays.read(plain(upstream), "grad_output").reshape(-1)
        written = rows
        if is_kept:
            _, written = kind_and_rows(arrays.read(plain(into), "out"), class_axis(into))
        arrays.backend.scale(rows, kind, factor, written)
        return {}

    tensors = source, upstream, into if is_kept else None
    call(None, "grad", ("scaled", is_kept), tensors, compute)
    return out
