"""Arrays that show themselves in slices: numpy.memmap, datasets of h5py, arrays in memory."""

from __future__ import annotations

import math
import mmap
import os
from typing import Any

import numpy as np

from fastxent.checks.on_disk import raise_not_readable
from fastxent.on_disk.files import NpyFile
from fastxent.on_disk.windows import Window
from fastxent.precision import Array, native

__all__ = ["ArrayWindows", "Source", "file_of", "source_of"]


class ArrayWindows:
    """Windows of an array: read by copying a slice, written by assigning one.

    Attributes
    ----------
    shape : tuple of int
    dtype : numpy.dtype
    """

    def __init__(self, array: Any) -> None:
        self.shape, self.dtype = tuple(array.shape), np.dtype(array.dtype)
        self._array = array
        # what an unknown kind of array makes of a slice is memory too
        is_direct = isinstance(array, np.ndarray) or hasattr(array, "read_direct")
        self.copies = 1 if is_direct else 2
        self._map = _mapping_of(array)

    def close(self) -> None:
        """Leave the array to its owner."""

    def read(self, window: Window, memory: Array) -> Array:
        """The window in native byte order, in `memory`: bytes, at least as many as it takes."""
        size, dtype = math.prod(window.shape), native(self.dtype)
        values = memory[: size * dtype.itemsize].view(dtype).reshape(window.shape)
        if hasattr(self._array, "read_direct") and size:  # HDF5 reads into the memory it is given
            self._array.read_direct(values, window.box)
        else:
            values[...] = self._array[window.box]
        self._drop(window)
        return values

    def write(self, window: Window, values: Array) -> None:
        """Put a window into the array."""
        self._array[window.box] = values
        self._drop(window)

    def _drop(self, window: Window) -> None:
        """Let the system take back the memory behind a window of a mapped file.

        What was written stays: it is the file's, in the system's cache.
        """
        if self._map is None:
            return
        file, begin = self._map
        low, high = np.lib.array_utils.byte_bounds(self._array[window.box])
        first = (low - begin) // mmap.PAGESIZE * mmap.PAGESIZE
        file.madvise(mmap.MADV_DONTNEED, first, high - begin - first)


def _mapping_of(array: Any) -> tuple[mmap.mmap, int] | None:
    """The mapping behind a numpy.memmap and where it begins; None where its pages must stay.

    Changes to a mapping that is copied on write (mode "c") are in its pages only.
    """
    if not isinstance(array, np.memmap) or array.mode == "c" or not array.size:
        return None
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    if not isinstance(base, mmap.mmap) or not hasattr(mmap, "MADV_DONTNEED"):
        return None
    return base, np.frombuffer(base, np.uint8).ctypes.data


Source = NpyFile | ArrayWindows


def file_of(value: Any) -> str | None:
    """Path of the file that an argument is, or is a mapping of."""
    if isinstance(value, (str, os.PathLike)):
        return os.fspath(value)
    return os.fspath(value.filename) if isinstance(value, np.memmap) and value.filename else None


def source_of(value: Any, name: str, may_write: bool = False) -> Source:
    """What windows are read from."""
    if isinstance(value, (str, os.PathLike)):
        return NpyFile(os.fspath(value), may_write)
    if not all(hasattr(value, needed) for needed in ("shape", "dtype", "__getitem__")):
        raise_not_readable(value, name)
    return ArrayWindows(value)
