"""Which kernels compute with a tensor: the one place where that is decided."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastxent.backends import load
from fastxent.checks.torch import check_device, check_same_device, check_tensor
from fastxent.torch import on_cpu, on_cuda
from fastxent.torch.contract import Kernels

__all__ = ["check_tensors", "is_computed_on", "is_on_gpu", "kernels_of"]

# tensors on "meta" have shapes only: what a call is given there is checked as for the CPU
_KERNELS: dict[str, Kernels] = {"cpu": on_cpu, "meta": on_cpu, "cuda": on_cuda}


def kernels_of(tensor: Tensor) -> Kernels:
    """Kernels of the device where a tensor is."""
    # the attribute `device` makes an object and a string of it
    return _KERNELS["cpu" if tensor.is_cpu else tensor.device.type]


def is_on_gpu(tensor: Tensor) -> bool:
    """Whether the host would have to wait for the numbers of a tensor."""
    return _KERNELS.get(tensor.device.type) is on_cuda


def is_computed_on(device: torch.device) -> bool:
    """Whether there are kernels for a device, and they can run."""
    return device.type in _KERNELS and device.type != "meta" and _why_not(device.type) is None


def _why_not(device: str) -> str | None:
    """Why a device that has kernels cannot be computed on."""
    return _why_no_gpu() if device == "cuda" else None


# a compiler takes the answer of the moment, as it cannot look into the driver
@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _why_no_gpu() -> str | None:
    return load("cuda").why_not()


def check_tensors(**tensors: Any) -> None:
    """Tensors of one device that is computed on."""
    for name, tensor in tensors.items():
        check_tensor(isinstance(tensor, Tensor), tensor, name)
    # the words for devices take 2 us of a small call
    if all(tensor.is_cpu for tensor in tensors.values()):
        return
    first: tuple[str, str] | None = None
    for name, tensor in tensors.items():
        device = tensor.device
        check_device(device.type in _KERNELS, device.type, name, _why_not(device.type))
        if first is None:
            first = str(device), name
        check_same_device(str(device), name, *first)
