"""Tensors of a GPU as the arrays that its kernels take, and back: the same memory, both ways."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastxent.backends import pick_on_device
from fastxent.checks.torch import check_strided
from fastxent.device_array import DeviceArray
from fastxent.layout import rows_of
from fastxent.precision import kernel_dtype, kind_of

__all__ = ["address_of", "kind_and_rows", "new_memory", "pick", "plain", "settled", "stream_of"]


def pick(name: Any, problem: Any = None) -> Any:
    """Backend of GPUs; an error where another one is named, or it cannot run."""
    return pick_on_device(name)


def plain(tensor: Any) -> Any:
    """The numbers of a tensor without its graph; what is none stays as it is."""
    return tensor.detach() if isinstance(tensor, Tensor) else tensor


def settled(tensor: Any, name: str = "input") -> Any:
    """The same with its numbers in dense memory, and not with their sign still to be turned."""
    if not isinstance(tensor, Tensor):
        return tensor
    check_strided(tensor.layout is torch.strided, str(tensor.layout), name)
    return tensor.resolve_neg() if tensor.is_neg() else tensor


def stream_of(device: torch.device) -> int:
    """PyTorch's current stream: `torch.cuda.current_stream` would make an object of it."""
    current: Any = torch._C._cuda_getCurrentRawStream
    return int(current(device.index))


def address_of(tensor: Tensor) -> int:
    """Where the first entry of a tensor is; 0 if there is none."""
    address: int = tensor.data_ptr()
    return address


def new_memory(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Memory of PyTorch's: that of a graph, while one is captured."""
    return torch.empty(shape, dtype=dtype, device=device)


def kind_and_rows(array: DeviceArray, axis: int) -> tuple[str, Any]:
    """What the numbers are, and the rows that a backend reads or fills: a view, always.

    For arrays laid out as `torch.empty_like` makes them.
    """
    kind = kind_of(array.dtype)
    assert kind is not None
    rows: Any = array
    return kind, rows_of(rows, axis, kernel_dtype(array.dtype, kind))
