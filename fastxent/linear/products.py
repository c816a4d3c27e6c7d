"""The matrix products of a chunk of rows, by NumPy's BLAS, in memory that is there already.

BLAS reads matrices of the dtype that computes, with one stride of a single element. Others are
copied to such a matrix block of classes by block, so that no copy is as large as the weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from fastxent.linear.buffers import Buffers
from fastxent.linear.rows import is_blas_matrix, read, write
from fastxent.precision import Array, kind_of

__all__ = ["Bias", "WeightGrad", "Weights", "class_blocks", "is_plain"]


def class_blocks(classes: int, block: int, start: int = 0) -> Iterator[slice]:
    """Blocks of classes, one after the other."""
    for begin in range(start, classes, block):
        yield slice(begin, min(begin + block, classes))


class Weights:
    """The weights of the classes, as BLAS can read them.

    Attributes
    ----------
    direct : (C, D) array or None
        The weights themselves, where BLAS reads them where they lie.
    """

    def __init__(self, weight: Array, buffers: Buffers) -> None:
        self._given, self._buffers = weight, buffers
        self._kind = kind_of(weight.dtype)
        self.classes, self.features = weight.shape
        self.direct = weight if is_blas_matrix(weight, buffers.dtype) else None

    def of(self, classes: Any) -> Array:
        """Weights of a block of classes, or of those of an array of indices."""
        if self.direct is not None:
            direct: Array = self.direct[classes]
            return direct
        given = self._given[classes]
        wide = self._buffers.of_classes("weights", *given.shape)
        assert self._kind is not None
        read(given, self._kind, wide)
        return wide

    def logits(self, hidden: Array, out: Array) -> None:
        """Write hidden W^T."""
        if self.direct is not None:
            np.matmul(hidden, self.direct.T, out=out)
            return
        for block in class_blocks(self.classes, self._buffers.block):
            np.matmul(hidden, self.of(block).T, out=out[:, block])

    def hidden_grad(self, grad: Array, out: Array) -> None:
        """Write the gradient of the hidden rows, grad W."""
        if self.direct is not None:
            np.matmul(grad, self.direct, out=out)
            return
        for block in class_blocks(self.classes, self._buffers.block):
            self.add_hidden_grad(grad[:, block], self.of(block), out, block.start == 0)

    def add_hidden_grad(self, grad: Array, weights: Array, out: Array, is_first: bool) -> None:
        """Add what some classes give to the gradient of the hidden rows; the first write it."""
        if is_first:
            np.matmul(grad, weights, out=out)
            return
        part = self._buffers.of_rows("hidden part", *out.shape)
        np.matmul(grad, weights, out=part)
        np.add(out, part, out=out)


class Bias:
    """The bias, in the dtype that computes, and its gradient.

    Attributes
    ----------
    values : (C,) array or None
    """

    def __init__(self, bias: Array | None, grad: Array | None, buffers: Buffers) -> None:
        self._buffers, self._grad = buffers, grad
        self.values: Array | None = None
        if bias is not None:
            self.values = bias
            if not is_plain(bias, buffers.dtype):
                self.values = np.empty(bias.shape, buffers.dtype)
                read(bias, _kind(bias), self.values)
        self._sums: Array | None = None
        if grad is not None:
            plain = is_plain(grad, buffers.dtype)
            self._sums = grad if plain else np.empty(grad.shape, buffers.dtype)
            self._sums.fill(0)

    def add_to(self, logits: Array, classes: slice = slice(None)) -> None:
        """Add the bias of these classes to every row."""
        if self.values is not None:
            np.add(logits, self.values[classes], out=logits)

    def add_grad(self, grad: Array, classes: Any = slice(None)) -> None:
        """Add the sums of the rows to the gradient of some classes."""
        if self._sums is None:
            return
        ones = self._buffers.vector("ones", grad.shape[0])
        ones.fill(1)
        part = self._buffers.vector("bias part", grad.shape[1])
        np.matmul(ones, grad, out=part)
        self._sums[classes] += part[0]

    def finish(self) -> None:
        """Round the gradient to the caller's dtype, where that is another."""
        if self._grad is not None and self._sums is not None and self._sums is not self._grad:
            write(self._sums, self._grad, _kind(self._grad))


class WeightGrad:
    """The gradient of the weights, added up over the chunks in the dtype that computes.

    Attributes
    ----------
    direct : (C, D) array or None
        The gradient itself, where BLAS writes it where it lies.
    sums : (C, D) array
        Where it is added up: the gradient itself, or memory of the call.
    """

    def __init__(self, grad: Array, buffers: Buffers, has_sums: bool) -> None:
        self._grad, self._buffers = grad, buffers
        self.direct = grad if is_blas_matrix(grad, buffers.dtype) else None
        self.sums = np.empty(grad.shape, buffers.dtype) if has_sums else grad
        self._is_wide = self.sums.dtype == buffers.dtype

    def add(self, grad: Array, hidden: Array, is_first: bool) -> None:
        """Add grad^T hidden of a chunk; the first writes it."""
        if is_first and self.direct is not None:
            np.matmul(grad.T, hidden, out=self.direct)
            return
        for block in class_blocks(self.sums.shape[0], self._buffers.block):
            size = block.stop - block.start
            part = self._buffers.of_classes("weight part", size, hidden.shape[1])
            np.matmul(grad[:, block].T, hidden, out=part)
            if not is_first:
                np.add(self.sums[block], part, out=self.sums[block])
            elif self._is_wide:
                self.sums[block] = part
            else:  # the only chunk
                write(part, self.sums[block], _kind(self.sums))

    def add_classes(self, grad: Array, hidden: Array, classes: Array) -> None:
        """Add grad^T hidden of some classes, by their indices."""
        part = self._buffers.of_classes("weight part", len(classes), hidden.shape[1])
        np.matmul(grad.T, hidden, out=part)
        if self._is_wide:
            np.add(self.sums[classes], part, out=part)
            self.sums[classes] = part
        else:  # the only chunk
            rounded = np.empty(part.shape, self.sums.dtype)
            write(part, rounded, _kind(self.sums))
            self.sums[classes] = rounded

    def finish(self) -> None:
        """Round the sums to the caller's dtype, where they are in memory of the call."""
        if self.sums is self._grad:
            return
        for block in class_blocks(self.sums.shape[0], self._buffers.block):
            write(self.sums[block], self._grad[block], _kind(self._grad))


def is_plain(vector: Array, dtype: np.dtype[Any]) -> bool:
    """Whether a vector is contiguous and of the dtype that computes."""
    return bool(vector.dtype == dtype and vector.flags.c_contiguous and vector.flags.aligned)


def _kind(array: Array) -> str:
    kind = kind_of(array.dtype)
    assert kind is not None
    return kind
