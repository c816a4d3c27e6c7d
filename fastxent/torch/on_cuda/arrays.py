"""Tensors of a GPU as the arrays that its kernels take, and back: the same memory, both ways."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastxent.checks.torch import check_dtype, check_strided
from fastxent.device_array import Allocator, DeviceArray, Place
from fastxent.precision import bfloat16_dtype

__all__ = ["array_of", "optional_array_of", "place_of", "tensor_of"]

_NAMES = ("float16", "float32", "float64", "bool", "uint8", "int8", "uint16", "int16")
_NAMES += ("uint32", "int32", "uint64", "int64")
_OF_TORCH = {getattr(torch, name): np.dtype(name) for name in _NAMES}
_TO_TORCH = {dtype: ours for ours, dtype in _OF_TORCH.items()}


def place_of(tensor: Tensor) -> Place:
    """Device of a tensor and PyTorch's current stream there; new memory is PyTorch's too."""
    device = tensor.device
    # what `torch.cuda.current_stream` makes an object of, for every call
    stream: int = torch._C._cuda_getCurrentRawStream(device.index)
    return Place(device.index, stream, allocator_of(device))


@functools.cache
def allocator_of(device: torch.device) -> Allocator:
    """Memory of PyTorch's on a device: that of a graph, while one is captured."""

    def allocate(shape: tuple[int, ...], dtype: np.dtype[Any], place: Place) -> DeviceArray:
        named = _TO_TORCH.get(dtype, torch.bfloat16)
        memory = torch.empty(shape, dtype=named, device=device)
        return DeviceArray(address_of(memory), shape, dtype, place, memory)

    return allocate


def address_of(tensor: Tensor) -> int:
    """Where the first entry of a tensor is."""
    return tensor.data_ptr()


def array_of(tensor: Tensor, place: Place, name: str = "input") -> DeviceArray:
    """View as an array."""
    check_strided(tensor.layout is torch.strided, str(tensor.layout), name)
    tensor = tensor.detach().resolve_neg()
    is_brain = tensor.dtype is torch.bfloat16
    check_dtype(is_brain or tensor.dtype in _OF_TORCH, str(tensor.dtype), name)
    dtype = bfloat16_dtype() if is_brain else _OF_TORCH[tensor.dtype]
    strides = tuple(step * dtype.itemsize for step in tensor.stride())
    return DeviceArray(address_of(tensor), tuple(tensor.shape), dtype, place, tensor, strides)


def optional_array_of(tensor: Tensor | None, place: Place, name: str) -> DeviceArray | None:
    """View as an array, if there is one."""
    return None if tensor is None else array_of(tensor, place, name)


def tensor_of(array: DeviceArray) -> Tensor:
    """View an array in memory of PyTorch's as a tensor."""
    memory: Tensor = array.owner
    if tuple(memory.shape) == array.shape:
        return memory
    steps = tuple(step // array.itemsize for step in array.strides)
    start = (array.address - memory.data_ptr()) // array.itemsize
    return memory.as_strided(array.shape, steps, memory.storage_offset() + start)
