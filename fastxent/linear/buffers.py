"""Memory of a call that every chunk uses again."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastxent.precision import Array

__all__ = ["Buffers"]


class Buffers:
    """Matrices in C order, each allocated once, as large as it can become.

    Parameters
    ----------
    dtype : numpy.dtype
        The one that computes.
    rows, block : int
        The most rows of a chunk, and classes of a block.
    """

    def __init__(self, dtype: np.dtype[Any], rows: int, block: int) -> None:
        self.dtype, self.rows, self.block = dtype, rows, block
        self._memory: dict[str, Array] = {}

    def of_rows(self, name: str, rows: int, columns: int) -> Array:
        """Matrix of some rows of a chunk."""
        return self._matrix(name, rows, columns, self.rows * columns)

    def of_classes(self, name: str, classes: int, columns: int) -> Array:
        """Matrix of some classes of a block."""
        return self._matrix(name, classes, columns, self.block * columns)

    def of_pairs(self, name: str, rows: int, classes: int) -> Array:
        """Matrix of some rows of a chunk and classes of a block."""
        return self._matrix(name, rows, classes, self.rows * self.block)

    def vector(self, name: str, size: int) -> Array:
        """Matrix of one row."""
        return self._matrix(name, 1, size, size)

    def clear(self) -> None:
        """Give the memory back."""
        self._memory.clear()

    def _matrix(self, name: str, rows: int, columns: int, most: int) -> Array:
        memory = self._memory.get(name)
        if memory is None or memory.size < rows * columns:
            memory = self._memory[name] = np.empty(max(most, rows * columns), self.dtype)
        return memory[: rows * columns].reshape(rows, columns)
