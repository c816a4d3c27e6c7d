"""CPU tensors of PyTorch as tensors of the simulated GPU: their memory is its memory."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from fastxent.device_array import DeviceArray
from fastxent.interchange import torch_tensors
from fastxent.torch import devices, on_cuda
from fastxent.torch.on_cuda import calls
from gpu.simulation.memory import MEMORY

__all__ = ["Tensors"]

STREAM = 0x5EED


class Tensors:
    """The storages that the simulated GPU knows; they live until `forget`."""

    def __init__(self, patch: Any) -> None:
        self._patch = patch
        self._known: dict[int, Any] = {}

    def know(self, tensor: torch.Tensor) -> None:
        """Let kernels use all of the memory that a tensor is a view of."""
        storage = tensor.untyped_storage()
        address, nbytes = storage.data_ptr(), storage.nbytes()
        if nbytes and address not in self._known:
            self._known[address] = storage
            memory = (ctypes.c_uint8 * nbytes).from_address(address)
            MEMORY.register(np.ctypeslib.as_array(memory))

    def forget(self) -> None:
        """Take the memory away from the GPU."""
        for address in self._known:
            MEMORY.free(address)
        self._known.clear()

    @contextlib.contextmanager
    def on_gpu(self) -> Iterator[None]:
        """While this lasts fastxent takes every CPU tensor for one of the GPU."""
        kind, read = type(torch_tensors.LIBRARY), torch_tensors.LIBRARY.read_on_device

        def read_on_device(library: Any, value: torch.Tensor) -> DeviceArray:
            self.know(value)
            return read(value)

        def new_memory(shape: Any, dtype: torch.dtype, device: Any) -> torch.Tensor:
            memory = torch.empty(shape, dtype=dtype)
            return memory.fill_(torch.nan) if memory.is_floating_point() else memory

        def address_of(tensor: torch.Tensor) -> int:
            self.know(tensor)
            return tensor.data_ptr()

        def allocate(shape: tuple[int, ...], dtype: Any, place: Any) -> DeviceArray:
            memory = new_memory(shape, torch_tensors._dtype_of_torch(dtype), None)
            return DeviceArray(address_of(memory), shape, dtype, place, memory)

        with self._patch.context() as patch:
            patch.setitem(devices._KERNELS, "cpu", on_cuda)
            patch.setattr(kind, "is_on_device", lambda library, value: True)
            patch.setattr(kind, "read_on_device", read_on_device)
            patch.setattr(torch_tensors, "_allocate", allocate)
            patch.setattr(
                torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=STREAM)
            )
            patch.setattr(calls, "stream_of", lambda device: STREAM)
            patch.setattr(calls, "address_of", address_of)
            patch.setattr(calls, "new_memory", new_memory)
            yield
