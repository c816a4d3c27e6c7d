"""From tensors to NumPy arrays and back: at once in eager mode, as one operation of a graph else.

Eager tensors are read where they lie, and large arrays become tensors where they lie. In a graph
`tf.numpy_function` does the same: TensorFlow shows it the tensors' own memory, and takes over an
array that begins at a line of the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.eager import forwardprop_util
from tensorflow.python.ops import control_flow_util

from fastxent.checks.tensorflow import check_eager_device, check_forward_mode, check_no_xla
from fastxent.errors import LabelError
from fastxent.precision import Array

__all__ = ["compute", "shape_of", "without_axis"]

# TensorFlow takes it for granted that memory begins at such an address, and aborts the process
# where it finds that it does not.
_ALIGNMENT = 64


def shape_of(tensor: Any) -> tuple[int | None, ...] | None:
    """Static shape; None for sizes, or for a rank, that only the running graph knows."""
    return None if tensor.shape.rank is None else tuple(tensor.shape.as_list())


def without_axis(tensor: Any, axis: int) -> Any:
    """Static shape without the axis of the classes."""
    shape = shape_of(tensor)
    if shape is None:
        return tf.TensorShape(None)
    at = axis % len(shape)
    return tf.TensorShape(shape[:at] + shape[at + 1 :])


def compute(
    function: Callable[..., tuple[Array, ...]],
    tensors: Sequence[Any],
    dtypes: Sequence[Any],
    shapes: Sequence[Any],
    name: str,
) -> list[Any]:
    """Tensors of what a function of NumPy arrays returns; it must not depend on anything else."""
    if tf.executing_eagerly():
        return [_tensor(array) for array in function(*map(_array, tensors))]
    check_forward_mode(bool(forwardprop_util.pack_tangents(list(tensors)).tangents))
    check_no_xla(control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()))

    def run(*arrays: Array) -> tuple[Array, ...]:
        try:
            return function(*arrays)
        except LabelError as error:
            # an IndexError would be an UnknownError of the graph, a ValueError is the
            # InvalidArgumentError that tf.nn raises
            raise ValueError(str(error)) from None

    results = tf.numpy_function(run, tensors, dtypes, stateful=False, name=name)
    for result, shape in zip(results, shapes, strict=True):
        result.set_shape(shape)
    return list(results)


def _array(tensor: Any) -> Array:
    check_eager_device(tensor.backing_device, "a tensor")
    # NumPy cannot read a scalar of bfloat16, which numpy() makes one of its own
    return np.asarray(tensor if tensor.shape.rank else tensor.numpy())


def _tensor(array: Array) -> Any:
    """Tensor in the memory of the array, which nobody else writes to; a small one is copied."""
    if not array.flags.c_contiguous or array.ctypes.data % _ALIGNMENT or not array.size:
        return tf.constant(array)
    if array.dtype.kind == "f":
        return tf.experimental.dlpack.from_dlpack(array.__dlpack__())
    bits = tf.experimental.dlpack.from_dlpack(array.view(np.uint16).__dlpack__())
    return tf.bitcast(bits, tf.bfloat16)
