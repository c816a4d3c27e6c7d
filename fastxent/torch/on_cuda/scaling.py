"""Gradients times the upstream gradient, which the host never sees."""

from __future__ import annotations

import torch
from torch import Tensor

from fastxent.torch.arrays import class_axis
from fastxent.torch.on_cuda.arrays import arrays_of, kind_and_rows, plain

__all__ = ["scaled"]


def scaled(grad: Tensor, grad_output: Tensor, is_kept: bool) -> Tensor:
    """Give the gradient times the upstream one; what is not kept is changed, and not for 1.

    Whether the upstream gradient is 1 the kernel finds out: then it returns at once.
    """
    out = torch.empty_like(grad) if is_kept else grad
    if not grad.numel():
        return out
    pieces, axis = (grad, out), class_axis(grad)
    if not grad.dim():
        pieces, axis = (grad.reshape(1), out.reshape(1)), 0
    arrays = arrays_of(pieces[0], "grad", None)
    upstream = arrays.read(plain(grad_output).reshape(-1), "grad_output")
    kind, source = kind_and_rows(arrays.first, axis)
    _, into = kind_and_rows(arrays.read(plain(pieces[1]), "out"), axis)
    arrays.backend.scale(source, kind, upstream, into)
    return out
