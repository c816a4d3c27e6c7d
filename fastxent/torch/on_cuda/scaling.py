"""Gradients times the upstream gradient, which the host never sees."""

from __future__ import annotations

import torch
from torch import Tensor

from fastxent.device_array import DeviceArray
from fastxent.on_device.arrays import Arrays
from fastxent.torch.arrays import class_axis
from fastxent.torch.on_cuda.arrays import kind_and_rows, plain
from fastxent.torch.on_cuda.calls import call

__all__ = ["scaled"]


def scaled(grad: Tensor, grad_output: Tensor, is_kept: bool) -> Tensor:
    """Give the gradient times the upstream one; what is not kept is changed, and not for 1.

    Whether the upstream gradient is 1 the kernel finds out: then it returns at once.
    """
    out = torch.empty_like(grad) if is_kept else grad
    if not grad.numel():
        return out
    source, into, upstream = plain(grad), plain(out), plain(grad_output).reshape(-1)
    if not grad.dim():
        source, into = source.reshape(1), into.reshape(1)

    def compute(arrays: Arrays) -> dict[str, DeviceArray]:
        kind, rows = kind_and_rows(arrays.first, class_axis(source))
        factor = arrays.read(upstream, "grad_output")
        written = rows
        if is_kept:
            _, written = kind_and_rows(arrays.read(into, "out"), class_axis(into))
        arrays.backend.scale(rows, kind, factor, written)
        return {}

    tensors = source, upstream, into if is_kept else None
    call(None, "grad", ("scaled", is_kept), tensors, compute)
    return out
