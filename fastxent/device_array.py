"""Arrays in the memory of a GPU: an address and a layout, whose numbers are never read on the host.

`DeviceArray` has those attributes of NumPy's arrays that fastxent.layout asks for, so that the
same code finds rows in both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, NoReturn

import numpy as np

__all__ = ["Allocator", "DeviceArray", "Place"]

Shape = tuple[int, ...]


class Place:
    """A device, the stream that work for it goes to, and where its new memory comes from.

    Attributes
    ----------
    device : int
    stream : int
        The handle of a CUDA stream, 0 for the legacy default stream.
    allocator : callable or None
        Of a shape, a NumPy dtype and this place: new C-ordered memory that belongs to the library
        of the caller's arrays, in the order of the stream. None where only the backend has memory.
    scratch_allocator : callable or None
        The same for what is gone when the call returns; None where `allocator` is as good.
    """

    __slots__ = ("allocator", "device", "scratch_allocator", "stream")

    def __init__(
        self,
        device: int,
        stream: int,
        allocator: Allocator | None = None,
        scratch_allocator: Allocator | None = None,
    ) -> None:
        self.device, self.stream = device, stream
        self.allocator, self.scratch_allocator = allocator, scratch_allocator

    def allocate(self, shape: Shape, dtype: np.dtype[Any]) -> DeviceArray:
        """New C-ordered array, with nothing in it yet."""
        assert self.allocator is not None, "this place was given no memory"
        return self.allocator(shape, dtype, self)

    def scratch(self, shape: Shape, dtype: np.dtype[Any]) -> DeviceArray:
        """The same for an array that is gone when the call returns."""
        if self.scratch_allocator is None:
            return self.allocate(shape, dtype)
        return self.scratch_allocator(shape, dtype, self)

    def __repr__(self) -> str:
        return f"Place(device={self.device}, stream={self.stream:#x})"


Allocator = Callable[[Shape, "np.dtype[Any]", Place], "DeviceArray"]


class _Flags(NamedTuple):
    """What `flags` of NumPy's arrays tell, as far as it is asked for."""

    c_contiguous: bool
    aligned: bool
    writeable: bool


class DeviceArray:
    """An array on a GPU.

    Attributes
    ----------
    address : int
    shape : tuple of int
    strides : tuple of int
        In bytes, as NumPy's.
    dtype : numpy.dtype
        bfloat16 is `precision.bfloat16_dtype()`.
    place : Place
    owner : object
        Keeps the memory alive: the caller's array, or what was allocated.
    writeable : bool
    """

    __slots__ = ("address", "dtype", "owner", "place", "shape", "strides", "writeable")

    # NumPy's operators and functions leave it alone
    __array_ufunc__ = None

    def __init__(
        self,
        address: int,
        shape: Shape,
        dtype: np.dtype[Any],
        place: Place,
        owner: Any,
        strides: Shape | None = None,
        writeable: bool = True,
    ) -> None:
        self.address, self.shape, self.dtype, self.place = address, shape, dtype, place
        self.owner, self.writeable = owner, writeable
        self.strides = dense_strides(shape, dtype.itemsize) if strides is None else strides

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)

    @property
    def itemsize(self) -> int:
        """Bytes an entry."""
        return self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of all entries."""
        return self.size * self.dtype.itemsize

    @property
    def is_dense(self) -> bool:
        """Whether the entries lie in C order without gaps."""
        expected = self.dtype.itemsize
        for size, step in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if size == 0:
                return True
            if size > 1:
                if step != expected:
                    return False
                expected *= size
        return True

    @property
    def is_aligned(self) -> bool:
        """Whether all entries lie at multiples of their size."""
        if not self.size:
            return True
        itemsize = self.dtype.itemsize
        return self.address % itemsize == 0 and all(
            step % itemsize == 0
            for size, step in zip(self.shape, self.strides, strict=True)
            if size > 1
        )

    @property
    def flags(self) -> _Flags:
        """Layout, in the words of NumPy."""
        return _Flags(self.is_dense, self.is_aligned, self.writeable)

    def _like(
        self, shape: Shape, strides: Shape, dtype: np.dtype[Any] | None = None
    ) -> DeviceArray:
        dtype = self.dtype if dtype is None else dtype
        return DeviceArray(
            self.address, shape, dtype, self.place, self.owner, strides, self.writeable
        )

    def transpose(self, *axes: Any) -> DeviceArray:
        """View with the axes in another order."""
        order = axes[0] if len(axes) == 1 and isinstance(axes[0], Iterable) else axes
        order = tuple(order)
        shape = tuple(self.shape[axis] for axis in order)
        return self._like(shape, tuple(self.strides[axis] for axis in order))

    def reshape(self, *shape: Any) -> DeviceArray:
        """View of another shape; a ValueError where there is none."""
        asked = shape[0] if len(shape) == 1 and isinstance(shape[0], Iterable) else shape
        wanted = _sizes(tuple(asked), self.size)
        strides = view_strides(self.shape, self.strides, wanted, self.dtype.itemsize)
        if strides is None:
            raise ValueError(f"no view of strides {self.strides} has shape {wanted}")
        return self._like(wanted, strides)

    def view(self, dtype: np.dtype[Any]) -> DeviceArray:
        """The same bytes as entries of another dtype of the same size."""
        if dtype.itemsize != self.dtype.itemsize:
            raise ValueError(f"{self.dtype} and {dtype} differ in size")
        return self._like(self.shape, self.strides, dtype)

    def broadcast_to(self, shape: Shape) -> DeviceArray:
        """View of a larger shape by NumPy's rules; a ValueError where they give none."""
        leading = len(shape) - self.ndim
        fits = leading >= 0 and all(
            size in (1, wanted) for size, wanted in zip(self.shape, shape[leading:], strict=True)
        )
        if not fits:
            raise ValueError(f"shape {self.shape} cannot be broadcast to {shape}")
        steps = zip(self.shape, self.strides, strict=True)
        strides = (0,) * leading + tuple(0 if size == 1 else step for size, step in steps)
        return self._like(shape, strides)

    def __getitem__(self, key: Any) -> DeviceArray:
        """Give the part at leading indices (integers), or the whole with a last axis of 1."""
        if key == (..., None):
            return self._like((*self.shape, 1), (*self.strides, self.dtype.itemsize))
        at = key if isinstance(key, tuple) else (key,)
        taken = self._like(self.shape[len(at) :], self.strides[len(at) :])
        taken.address += sum(
            (index % size) * step
            for index, size, step in zip(at, self.shape, self.strides, strict=False)
        )
        return taken

    def __array__(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError("an array on a GPU is not read by the host")

    def __repr__(self) -> str:
        return (
            f"DeviceArray({self.dtype}, shape={self.shape}, strides={self.strides}, "
            f"at {self.address:#x} of device {self.place.device})"
        )


def dense_strides(shape: Shape, itemsize: int) -> Shape:
    """Bytes from entry to entry of a C-ordered array."""
    strides = [itemsize] * len(shape)
    for axis in range(len(shape) - 1, 0, -1):
        strides[axis - 1] = strides[axis] * max(shape[axis], 1)
    return tuple(strides)


def _sizes(shape: Shape, size: int) -> Shape:
    """The shape with a -1 replaced by what is left."""
    if -1 in shape:
        known = -math.prod(shape)
        shape = tuple((size // known if known else 0) if n == -1 else n for n in shape)
    if math.prod(shape) != size:
        raise ValueError(f"{size} entries do not make shape {shape}")
    return shape


def view_strides(shape: Shape, strides: Shape, wanted: Shape, itemsize: int) -> Shape | None:
    """Strides with which the same entries have another shape, None where no view has it.

    Both shapes are walked from the front and cut where they have covered the same number of
    entries; in each piece the old axes must lie so that they are one.
    """
    if math.prod(shape) == 0:
        return dense_strides(wanted, itemsize)
    old = [(size, step) for size, step in zip(shape, strides, strict=True) if size != 1]
    found: list[int] = []
    at = new = 0
    while new < len(wanted):
        if wanted[new] == 1:
            found.append(itemsize)
            new += 1
            continue
        start, begin = at, new
        covered, made = old[at][0], wanted[new]
        at, new = at + 1, new + 1
        while covered != made:
            if covered < made:
                covered *= old[at][0]
                at += 1
            else:
                made *= wanted[new]
                new += 1
        for (_, outer), (size, step) in zip(old[start:at], old[start + 1 : at], strict=False):
            if outer != size * step:
                return None
        steps = [old[at - 1][1]]
        for size in reversed(wanted[begin + 1 : new]):
            steps.append(steps[-1] * size)
        found += reversed(steps)
    return tuple(found)
