"""Softmax and its logarithm of tensors on a GPU, forward and backward."""

from __future__ import annotations

import torch
from torch import Tensor

from fastxent.interchange import home_of
from fastxent.on_device import jacobian_product, normalised
from fastxent.torch.on_cuda.arrays import plain

__all__ = ["softmax", "softmax_backward"]


def _place(x: Tensor) -> Tensor | None:
    """Where a result goes that is laid out as the fake kernel says; None for new memory."""
    return None if x.is_contiguous() else torch.empty_like(x)


def softmax(
    x: Tensor, dim: int, is_log: bool, backend: str | None, num_threads: int | None
) -> Tensor:
    """Softmax or its logarithm."""
    if not x.numel():
        return torch.empty_like(x)
    name = "log_proba" if is_log else "proba"
    result: Tensor = normalised(name, home_of(plain(x)), dim, _place(x), backend, num_threads)
    return result


def softmax_backward(
    grad: Tensor,
    result: Tensor,
    dim: int,
    is_log: bool,
    backend: str | None,
    num_threads: int | None,
) -> Tensor:
    """Gradient from that of the result."""
    if not result.numel():
        return torch.empty_like(result)
    product: Tensor = jacobian_product(
        *(home_of(plain(result)), plain(grad), dim, _place(result), backend, num_threads),
        is_log=is_log,
    )
    return product
