"""Gradients times the upstream gradient."""

from __future__ import annotations

from torch import Tensor

__all__ = ["scaled"]


def scaled(grad: Tensor, grad_output: Tensor, is_kept: bool) -> Tensor:
    """Give the gradient times the upstream one; what is not kept is changed, and not for 1."""
    if grad_output.dim() == 0 and grad_output.item() == 1.0:
        return grad.clone() if is_kept else grad
    upstream = grad_output.unsqueeze(1) if grad_output.dim() else grad_output
    return (grad * upstream).to(grad.dtype) if is_kept else grad.mul_(upstream)
