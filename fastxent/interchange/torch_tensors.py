"""Tensors of PyTorch."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from fastxent.interchange.library import Library, elsewhere, is_one_of
from fastxent.precision import Array, bfloat16_dtype, kind_of

__all__ = ["LIBRARY"]


class _Torch(Library):
    def owns(self, value: Any) -> bool:
        return is_one_of(value, "torch", "Tensor")

    def why_not(self, value: Any, name: str) -> str | None:
        torch: Any = sys.modules["torch"]
        if value.device.type == "meta":
            return "it is a tensor on the device meta, which has a shape and no numbers"
        if value.device.type != "cpu":
            return elsewhere(value.device, f"pass {name}.cpu()")
        if value.requires_grad:
            return (
                "it is a tensor that requires grad, which autograd would not follow here: use "
                f"fastxent.torch, or pass {name}.detach()"
            )
        if value.is_quantized:
            return f"it is a quantised tensor: pass {name}.dequantize()"
        if value.layout != torch.strided:
            return f"it is a tensor of layout {value.layout}: pass a dense one, {name}.to_dense()"
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


LIBRARY = _Torch()
