"""Arrays of JAX."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from fastxent.device_array import DeviceArray
from fastxent.interchange import dlpack
from fastxent.interchange.device_memory import DeviceMemory, from_dlpack
from fastxent.interchange.library import Library, Wait, elsewhere, is_one_of
from fastxent.precision import Array

__all__ = ["LIBRARY"]


class _Jax(Library):
    def owns(self, value: Any) -> bool:
        return is_one_of(value, "jax", "Array")

    def why_not(self, value: Any, name: str) -> str | None:
        jax: Any = sys.modules["jax"]
        if isinstance(value, jax.core.Tracer):
            return (
                "it is a tracer of JAX, which stands for an array inside jit, grad or vmap: use "
                "fastxent.jax there"
            )
        devices = value.devices()
        if len(devices) > 1:
            return (
                f"it is spread over {len(devices)} devices: use fastxent.jax, or pass "
                f"jax.device_put({name}, jax.devices('cpu')[0])"
            )
        (device,) = devices
        if device.platform != "cpu":
            return elsewhere(device, f"pass jax.device_put({name}, jax.devices('cpu')[0])")
        return None

    def why_not_written(self) -> str | None:
        return "arrays of JAX never change: leave out away, a new array costs no copy"

    def read(self, value: Any) -> Array:
        return np.asarray(value)

    def give(self, result: Array, like: Any) -> Any:
        jax: Any = sys.modules["jax"]
        # It takes over memory that begins at a multiple of 64 bytes and copies what does not, as
        # small arrays may. Unlike DLPack it knows bfloat16.
        (device,) = like.devices()
        return jax.device_put(result, device if like.committed else None, may_alias=True)

    def is_on_device(self, value: Any) -> bool:
        jax: Any = sys.modules["jax"]
        if isinstance(value, jax.core.Tracer) or value.is_deleted() or len(value.devices()) != 1:
            return False
        (device,) = value.devices()
        # a GPU of AMD's has the platform "gpu" too
        return bool(device.platform == "gpu" and value.__dlpack_device__()[0] == dlpack.CUDA)

    def read_on_device(self, value: Any) -> DeviceArray:
        array = from_dlpack(value)
        array.writeable = False
        return array

    def give_on_device(self, result: DeviceArray, like: Any, wait: Wait) -> Any:
        jax: Any = sys.modules["jax"]
        return jax.dlpack.from_dlpack(DeviceMemory(result, wait))

    def compact(self, value: Any, order: Sequence[int]) -> Any:
        jax: Any = sys.modules["jax"]
        return jax.numpy.transpose(value, tuple(order))


LIBRARY = _Jax()
