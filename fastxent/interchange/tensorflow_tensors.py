"""Eager tensors and variables of TensorFlow."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from fastxent.interchange.library import Library, elsewhere, is_one_of
from fastxent.precision import Array, kind_of

__all__ = ["LIBRARY"]

# Kernels of TensorFlow may load whole vectors from an address that they take for aligned.
_ALIGNMENT = 64


class _TensorFlow(Library):
    def owns(self, value: Any) -> bool:
        return is_one_of(value, "tensorflow", "Tensor", "Variable")

    def why_not(self, value: Any, name: str) -> str | None:
        tf: Any = sys.modules["tensorflow"]
        if not tf.executing_eagerly() or tf.is_symbolic_tensor(value):
            return (
                "it stands for a tensor inside a tf.function, and has no numbers yet: use "
                "fastxent.tensorflow there"
            )
        if not value.device.endswith("CPU:0"):
            return elsewhere(value.device, f"pass tf.identity({name}) made under tf.device('CPU')")
        return None

    def why_not_written(self) -> str | None:
        return "tensors of TensorFlow never change: leave out away, a new one costs no copy"

    def read(self, value: Any) -> Array:
        tf: Any = sys.modules["tensorflow"]
        tensor = tf.convert_to_tensor(value)
        # a bfloat16 without dimensions gives NumPy a scalar where it expects an array
        return np.asarray(tensor if tensor.shape.rank else tensor.numpy())

    def give(self, result: Array, like: Any) -> Any:
        tf: Any = sys.modules["tensorflow"]
        is_plain = result.flags.c_contiguous and result.ctypes.data % _ALIGNMENT == 0
        if not (is_plain and result.size):
            return tf.constant(result)
        if kind_of(result.dtype) == "bfloat16":
            bits = tf.experimental.dlpack.from_dlpack(result.view(np.uint16).__dlpack__())
            return tf.bitcast(bits, tf.bfloat16)
        return tf.experimental.dlpack.from_dlpack(result.__dlpack__())


LIBRARY = _TensorFlow()
