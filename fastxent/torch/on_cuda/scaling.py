"""Gradients times the upstream gradient, which the host never sees."""

from __future__ import annotations

import torch
from torch import Tensor

from fastxent.layout import rows_of
from fastxent.precision import kernel_dtype, kind_of
from fastxent.torch.arrays import class_axis
from fastxent.torch.on_cuda.arrays import array_of, place_of
from fastxent.torch.on_cuda.choice import pick

__all__ = ["scaled"]


def scaled(grad: Tensor, grad_output: Tensor, is_kept: bool) -> Tensor:
    """Give the gradient times the upstream one; what is not kept is changed, and not for 1.

    Whether the upstream gradient is 1 the kernel finds out: then it returns at once.
    """
    out = torch.empty_like(grad) if is_kept else grad
    if not grad.numel():
        return out
    place = place_of(grad)
    upstream = array_of(grad_output.reshape(-1), place, "grad_output")
    source, into = array_of(grad, place), array_of(out, place)
    kind = kind_of(source.dtype)
    assert kind is not None
    if upstream.size > 1:
        kernel = kernel_dtype(source.dtype, kind)
        source, into = (rows_of(one, class_axis(grad), kernel) for one in (source, into))
    elif not grad.dim():
        source, into = source.reshape(1), into.reshape(1)
    pick(None).scale(source, kind, upstream, into)
    return out
