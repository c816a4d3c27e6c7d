"""Arrays in .npy files, read and written a window at a time: nothing is mapped.

So a process whose address space is smaller than the file can read it, and a full disk or a file
that somebody cuts off is an OSError, where a mapping would end the process (SIGBUS).
"""

from __future__ import annotations

import io
import math
import os
import secrets
from collections.abc import Iterator
from typing import Any

import numpy as np

from fastxent.checks.on_disk import check_file_is_whole, raise_not_npy
from fastxent.on_disk.windows import Window
from fastxent.precision import Array, native

__all__ = ["NewFile", "NpyFile"]

_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


class NpyFile:
    """A .npy file, open for reading, maybe for writing.

    Attributes
    ----------
    shape : tuple of int
    dtype : numpy.dtype
        As it is stored.
    is_fortran : bool
        Whether the first dimension is the one whose entries are next to each other.
    path : str
    """

    # how many times as much memory as a window takes reading it takes
    copies = 1

    def __init__(self, path: str, may_write: bool = False) -> None:
        self.path = path
        self._file = io.FileIO(path, "r+b" if may_write else "rb")
        try:
            self.shape, self.is_fortran, self.dtype = self._header()
            self._begin = self._file.tell()
            needed = self._begin + math.prod(self.shape) * self.dtype.itemsize
            check_file_is_whole(path, os.fstat(self._file.fileno()).st_size, needed, self.shape)
        except BaseException:
            self._file.close()
            raise

    def _header(self) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
        try:
            version = np.lib.format.read_magic(self._file)
            if version not in _HEADERS:
                raise ValueError(f"format version {version[0]}.{version[1]}")
            shape, is_fortran, dtype = _HEADERS[version](self._file)
            if dtype.hasobject:
                raise ValueError("it holds Python objects")
        except (ValueError, EOFError) as error:
            raise_not_npy(self.path, error)
        return shape, is_fortran, dtype

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def read(self, window: Window, memory: Array) -> Array:
        """The window in native byte order, in `memory`: bytes, at least as many as it takes."""
        shape = window.shape
        size = math.prod(shape) * self.dtype.itemsize
        stored = memory[:size].view(self.dtype)
        data, taken = memory[:size].data, 0
        for at, length in self._runs(window):
            self._read_run(data[taken : taken + length], at)
            taken += length
        if not self.dtype.isnative:
            stored = stored.byteswap(inplace=True).view(native(self.dtype))
        return self._shaped(stored, shape)

    def write(self, window: Window, values: Array) -> None:
        """Put a window, in the memory order in which `read` gave it, into the file."""
        stored = values.T if self.is_fortran else values
        data, taken = stored.reshape(-1).view(np.uint8).data, 0
        for at, length in self._runs(window):
            self._write_run(data[taken : taken + length], at)
            taken += length

    def _shaped(self, stored: Array, shape: tuple[int, ...]) -> Array:
        return stored.reshape(shape[::-1]).T if self.is_fortran else stored.reshape(shape)

    def _runs(self, window: Window) -> Iterator[tuple[int, int]]:
        """Where the bytes of a window are in the file, and how many: adjacent ones together."""
        shape, box = self.shape, window.box
        if not shape:
            yield self._begin, self.dtype.itemsize
            return
        if self.is_fortran:
            shape, box = shape[::-1], box[::-1]
        strides = [math.prod(shape[at + 1 :]) * self.dtype.itemsize for at in range(len(shape))]
        inner = len(shape) - 1
        while inner > 0 and box[inner] == slice(0, shape[inner]):
            inner -= 1
        length = (box[inner].stop - box[inner].start) * strides[inner]
        first = self._begin + sum(b.start * s for b, s in zip(box, strides, strict=True))
        for place in np.ndindex(*(along.stop - along.start for along in box[:inner])):
            yield first + sum(i * s for i, s in zip(place, strides, strict=False)), length

    def _read_run(self, data: memoryview, at: int) -> None:
        while data:
            count = os.preadv(self._file.fileno(), [data], at)
            if count == 0:  # it was whole when it was opened
                check_file_is_whole(self.path, at, at + len(data), self.shape)
            data, at = data[count:], at + count

    def _write_run(self, data: memoryview, at: int) -> None:
        while data:
            count = os.pwrite(self._file.fileno(), data, at)
            data, at = data[count:], at + count


class NewFile(NpyFile):
    """A .npy file that gets its name when it is complete; until then it has another.

    Its room on the disk is taken at the beginning, so that a disk that is too small shows before
    anything is computed. The other name is chosen at random: process numbers come again, and the
    file of a process that was killed is still there.
    """

    def __init__(
        self, path: str, shape: tuple[int, ...], dtype: np.dtype[Any], is_fortran: bool
    ) -> None:
        self.path, self._part = path, f"{path}.{secrets.token_hex(8)}.part"
        self.shape, self.dtype, self.is_fortran = shape, dtype, is_fortran
        self._file = io.FileIO(self._part, "xb")
        try:
            header = {
                "shape": shape,
                "fortran_order": is_fortran,
                "descr": np.lib.format.dtype_to_descr(dtype),
            }
            np.lib.format.write_array_header_1_0(self._file, header)
            self._begin = self._file.tell()
            size = math.prod(shape) * dtype.itemsize
            if size and hasattr(os, "posix_fallocate"):
                os.posix_fallocate(self._file.fileno(), self._begin, size)
        except BaseException:
            self.abandon()
            raise

    def complete(self) -> None:
        """Give the file its name, once its bytes are on the disk."""
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self._part, self.path)

    def abandon(self) -> None:
        """Take the file away again."""
        self._file.close()
        os.unlink(self._part)
