"""Which kernels compute with a tensor: the one place where that is decided."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastxent.backends import load
from fastxent.checks.torch import check_device, check_same_device, check_tensor
from fastxent.torch import on_cpu, on_cuda
from fastxent.torch.contract import Kernels

__all__ = ["check_tensors", "is_computed_on", "kernels_of"]

_KERNELS: dict[str, Kernels] = {"cpu": on_cpu, "cuda": on_cuda}


def kernels_of(tensor: Tensor) -> Kernels:
    """Kernels of the device where a tensor is."""
    return _KERNELS[tensor.device.type]


def is_computed_on(device: torch.device) -> bool:
    """Whether there are kernels for a device, and they can run."""
    return device.type in _KERNELS and _why_not(device.type) is None


def _why_not(device: str) -> str | None:
    """Why a device that has kernels cannot be computed on."""
    # a compiler need not be where the kernels will run, and could not look into the driver
    if device != "cuda" or torch.compiler.is_compiling():
        return None
    return load("cuda").why_not()


def check_tensors(**tensors: Any) -> None:
    """Tensors of one device that is computed on; "meta" has shapes only, and is as good."""
    first: tuple[str, str] | None = None
    for name, tensor in tensors.items():
        check_tensor(isinstance(tensor, Tensor), tensor, name)
        device = tensor.device
        is_known = device.type in _KERNELS or device.type == "meta"
        check_device(is_known, device.type, name, _why_not(device.type))
        if first is None:
            first = str(device), name
        check_same_device(str(device), name, *first)
