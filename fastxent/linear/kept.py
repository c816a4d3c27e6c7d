"""The classes of a chunk whose gradient is worth its products: `grad_filter`."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastxent.linear.buffers import Buffers
from fastxent.linear.products import Bias, WeightGrad, Weights, class_blocks
from fastxent.precision import Array

__all__ = ["KeptClasses"]

# Classes whose largest entries are found together: of 512 rows, what stays in a core's cache.
_COLUMNS = 512


class KeptClasses:
    """Products with the classes that have an entry of some size in a chunk.

    Parameters
    ----------
    size : float
        A class whose entries are all smaller than this, before the factors of the rows, is left
        out. A NaN is not smaller.
    """

    def __init__(self, size: float, buffers: Buffers) -> None:
        self._size, self._buffers = size, buffers

    def products(
        self,
        grad: Array,
        hidden: Array,
        scale: Any,
        weights: Weights,
        hidden_grad: Array | None,
        weight_grad: WeightGrad | None,
        bias: Bias,
    ) -> None:
        """Add the products of a chunk; `grad` is without the factors `scale` of its rows."""
        kept = self.classes(grad)
        if hidden_grad is not None and not len(kept):
            hidden_grad.fill(0)
        for block in class_blocks(len(kept), self._buffers.block):
            classes = kept[block]
            part = self.columns(grad, classes, scale)
            bias.add_grad(part, classes)
            if weight_grad is not None:
                weight_grad.add_classes(part, hidden, classes)
            if hidden_grad is not None:
                chosen = weights.of(classes)
                weights.add_hidden_grad(part, chosen, hidden_grad, block.start == 0)

    def classes(self, grad: Array) -> Array:
        """Indices of the classes to keep."""
        if not len(grad):
            return np.empty(0, np.intp)
        is_kept = np.empty(grad.shape[1], np.bool_)
        size = grad.dtype.type(self._size)
        for block in class_blocks(grad.shape[1], _COLUMNS):
            part = grad[:, block]
            largest, smallest = np.maximum.reduce(part, axis=0), np.minimum.reduce(part, axis=0)
            is_kept[block] = ~((largest < size) & (smallest > -size))
        return np.flatnonzero(is_kept)

    def columns(self, grad: Array, classes: Array, scale: Any) -> Array:
        """The columns of these classes, with the factors of the rows."""
        part = self._buffers.of_pairs("columns", grad.shape[0], len(classes))
        # "clip", as with "raise" take writes to a copy first
        np.take(grad, classes, axis=1, out=part, mode="clip")
        np.multiply(part, np.asarray(scale, part.dtype), out=part)
        return part
