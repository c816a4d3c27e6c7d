"""Tensors of PyTorch."""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from fastxent.device_array import DeviceArray, Place
from fastxent.interchange.library import Library, Wait, elsewhere, is_one_of
from fastxent.precision import Array, bfloat16_dtype, kind_of

__all__ = ["LIBRARY", "shown_as"]

_NAMES = (
    *("float16", "float32", "float64", "bool"),
    *("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"),
)


@functools.cache
def _dtypes() -> dict[Any, np.dtype[Any]]:
    """NumPy's dtype for each of PyTorch's that has one, but for bfloat16."""
    torch: Any = sys.modules["torch"]
    return {getattr(torch, name): np.dtype(name) for name in _NAMES}


@functools.cache
def _dtypes_of_torch() -> dict[np.dtype[Any], Any]:
    return {dtype: ours for ours, dtype in _dtypes().items()}


def _dtype_of_torch(dtype: np.dtype[Any]) -> Any:
    torch: Any = sys.modules["torch"]
    return _dtypes_of_torch().get(dtype) or torch.bfloat16


def _allocate(shape: tuple[int, ...], dtype: np.dtype[Any], place: Place) -> DeviceArray:
    torch: Any = sys.modules["torch"]
    device = torch.device("cuda", place.device)
    memory = torch.empty(shape, dtype=_dtype_of_torch(dtype), device=device)
    return DeviceArray(memory.data_ptr(), shape, dtype, place, memory)


def shown_as(memory: Any, array: DeviceArray) -> Any:
    """Tensor with the layout and dtype of an array in the memory of this tensor."""
    dtype = _dtype_of_torch(array.dtype)
    if memory.dtype != dtype:
        memory = memory.view(dtype)
    steps = tuple(step // array.itemsize for step in array.strides)
    if tuple(memory.shape) == array.shape and memory.stride() == steps:
        return memory
    start = (array.address - memory.data_ptr()) // array.itemsize
    return memory.as_strided(array.shape, steps, memory.storage_offset() + start)


class _Torch(Library):
    allocates = keeps_for_graphs = True

    def owns(self, value: Any) -> bool:
        return is_one_of(value, "torch", "Tensor")

    def why_not(self, value: Any, name: str) -> str | None:
        if value.device.type == "meta":
            return "it is a tensor on the device meta, which has a shape and no numbers"
        if value.device.type != "cpu":
            return elsewhere(value.device, f"pass {name}.cpu()")
        return self.why_not_on_device(value, name)

    def why_not_on_device(self, value: Any, name: str) -> str | None:
        torch: Any = sys.modules["torch"]
        if value.requires_grad:
            return (
                "it is a tensor that requires grad, which autograd would not follow here: use "
                f"fastxent.torch, or pass {name}.detach()"
            )
        if value.is_quantized:
            return f"it is a quantised tensor: pass {name}.dequantize()"
        if value.layout != torch.strided:
            return f"it is a tensor of layout {value.layout}: pass a dense one, {name}.to_dense()"
        if value.is_neg():
            return (
                "it is a view whose signs PyTorch has still to turn in its memory: pass "
                f"{name}.resolve_neg()"
            )
        return None

    def read(self, value: Any) -> Array:
        torch: Any = sys.modules["torch"]
        if value.dtype == torch.bfloat16:
            bits: Array = value.view(torch.uint16).numpy()
            return bits.view(bfloat16_dtype())
        array: Array = value.numpy()
        return array

    def give(self, result: Array, like: Any) -> Any:
        torch: Any = sys.modules["torch"]
        if kind_of(result.dtype) == "bfloat16":
            return torch.from_numpy(result.view(np.uint16)).view(torch.bfloat16)
        return torch.from_numpy(result)

    def after_write(self, value: Any) -> None:
        # so that a backward pass which needs the numbers from before is an error
        torch: Any = sys.modules["torch"]
        torch.autograd.graph.increment_version(value)

    def is_on_device(self, value: Any) -> bool:
        return bool(value.device.type == "cuda")

    def read_on_device(self, value: Any) -> DeviceArray:
        torch: Any = sys.modules["torch"]
        device = value.device.index
        stream = torch.cuda.current_stream(device).cuda_stream
        dtype = bfloat16_dtype() if value.dtype == torch.bfloat16 else _dtypes().get(value.dtype)
        if dtype is None:
            raise TypeError(f"numbers of {value.dtype} are not computed with")
        strides = tuple(step * dtype.itemsize for step in value.stride())
        place = Place(device, stream, _allocate)
        return DeviceArray(value.data_ptr(), tuple(value.shape), dtype, place, value, strides)

    def give_on_device(self, result: DeviceArray, like: Any, wait: Wait) -> Any:
        return shown_as(result.owner, result)

    def compact(self, value: Any, order: Sequence[int]) -> Any:
        return value.permute(*order).contiguous()


LIBRARY = _Torch()
