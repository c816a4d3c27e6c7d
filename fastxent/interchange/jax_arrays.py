"""Arrays of JAX."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from fastxent.interchange.library import Library, elsewhere, is_one_of
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


LIBRARY = _Jax()
