"""Gradients written over the logits: what makes every misuse an error.

What was saved before, PyTorch's version counter tells. What is computed later from the overwritten
logits would be a wrong gradient without a word, so the gradient that arrives at the logits must be
the very memory that was written: nothing else may have contributed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastxent.checks.torch import check_in_place_grad, check_in_place_logits

__all__ = ["check_writable", "watch", "written"]


def check_writable(logits: Tensor) -> None:
    """Logits that something computed, in memory that is theirs alone."""
    base = logits._base
    is_leaf = logits.is_leaf or (base is not None and base.is_leaf and base.requires_grad)
    check_in_place_logits(is_leaf, base is not None and base.numel() != logits.numel())


def watch(logits: Tensor) -> list[Any]:
    """Put hooks on the logits, and on what they are a view of; give their handles.

    Before anything is written: of a view whose base has changed PyTorch makes a new node.
    """
    address = logits.data_ptr()

    def checker() -> Any:
        came = False

        def check(grad: Tensor) -> None:
            nonlocal came
            # only once: afterwards the memory is free, and another gradient may lie there
            check_in_place_grad(not came and grad.data_ptr() == address)
            came = True

        return check

    watched = [logits]
    if logits._base is not None and logits._base.requires_grad:
        watched.append(logits._base)
    return [tensor.register_hook(checker()) for tensor in watched]


def written(logits: Tensor) -> Tensor:
    """The memory of the logits as their gradient, known to PyTorch as changed.

    A tensor of the same storage: PyTorch adds to no gradient whose storage somebody else holds.
    """
    torch.autograd.graph.increment_version(logits)
    return logits.detach()
