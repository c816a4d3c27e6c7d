"""Tensors as the arrays that kernels take, and back: views of the same memory, both ways."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastxent import threads
from fastxent.checks.torch import check_dtype, check_strided
from fastxent.precision import Array

__all__ = ["array_of", "class_axis", "factor_of", "storage_of", "team", "tensor_of"]

# What `Tensor.numpy` takes. NumPy's own list of names will not do: ml_dtypes adds its own to it.
_WITH_NUMPY = {
    *(torch.bool, torch.uint8, torch.uint16, torch.uint32, torch.uint64),
    *(torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.float16, torch.float32, torch.float64, torch.complex64, torch.complex128),
}


def class_axis(logits: Tensor) -> int:
    """Where PyTorch has the classes: axis 1, or the only one."""
    return 1 if logits.dim() > 1 else 0


def storage_of(logits: Tensor) -> str | None:
    """What the bits are where NumPy has no dtype for the logits."""
    return "bfloat16" if logits.dtype is torch.bfloat16 else None


def array_of(tensor: Tensor, storage: str | None = None, name: str = "input") -> Array:
    """View as an array; bfloat16 as its bits where `storage` tells what they are.

    Beside logits that are not bfloat16 probabilities of that dtype become float32, the one copy
    that is made.
    """
    check_strided(tensor.layout is torch.strided, str(tensor.layout), name)
    tensor = tensor.detach().resolve_neg()
    if tensor.dtype is torch.bfloat16:
        tensor = tensor.float() if storage is None else tensor.view(torch.uint16)
    check_dtype(tensor.dtype in _WITH_NUMPY, str(tensor.dtype), name)
    array: Array = tensor.numpy()
    return array


def factor_of(values: Any) -> Any:
    """Weights of classes or rows in float64, of which there are few beside the logits."""
    return values.detach().double().numpy() if isinstance(values, Tensor) else values


def tensor_of(array: Any, storage: str | None = None) -> Tensor:
    """View as a tensor; numbers become tensors of no dimension."""
    tensor = torch.from_numpy(np.asarray(array))
    return tensor.view(torch.bfloat16) if storage is not None else tensor


def team(num_threads: int | None, rows: int, size_in_bytes: int) -> int:
    """Threads for a call: as asked for, else one, or as many as PyTorch's own operators take.

    libgomp ends and starts threads whenever the size of the team changes from one parallel region
    to the next, so a call that is worth more than one thread takes them all, as PyTorch's do.
    """
    planned = threads.plan(num_threads, rows, size_in_bytes)
    if num_threads is not None or planned == 1:
        return planned
    return threads.at_most(threads.Chosen(threads.get_num_threads()), int(torch.get_num_threads()))
