"""What is to be known about a library of arrays."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from fastxent.device_array import DeviceArray, Place
from fastxent.precision import Array

__all__ = ["Library", "Wait", "elsewhere", "is_one_of"]

# `DeviceBackend.wait`: what is launched on a place from now on waits for a stream.
Wait = Callable[[Place, int], None]


class Library(ABC):
    """Arrays of one library, seen from NumPy.

    Attributes
    ----------
    allocates : bool
        Whether the places of its arrays on a GPU have an allocator.
    keeps_for_graphs : bool
        Whether memory that is given back while a stream is captured stays the graph's.
    """

    allocates = keeps_for_graphs = False

    @abstractmethod
    def owns(self, value: Any) -> bool:
        """Whether this is one of its arrays."""

    def why_not(self, value: Any, name: str) -> str | None:
        """Why the memory of an array cannot be read, and what to do; None if it can."""
        return None

    def why_not_written(self) -> str | None:
        """Why nothing may be written to its arrays; None if that is allowed."""
        return None

    @abstractmethod
    def read(self, value: Any) -> Array:
        """NumPy array of the same memory."""

    @abstractmethod
    def give(self, result: Array, like: Any) -> Any:
        """Array of this library with the memory of a new NumPy array, on the device of `like`."""

    def after_write(self, value: Any) -> None:
        """Tell the library that the memory of an array has changed."""
        return

    def is_on_device(self, value: Any) -> bool:
        """Whether the memory of an array is that of a GPU of NVIDIA's."""
        return False

    def why_not_on_device(self, value: Any, name: str) -> str | None:
        """Why the memory of an array on a GPU cannot be used, and what to do; None if it can."""
        return None

    def read_on_device(self, value: Any) -> DeviceArray:
        """The same memory, its place being that of the library's current work."""
        raise NotImplementedError

    def give_on_device(self, result: DeviceArray, like: Any, wait: Wait) -> Any:
        """Array of this library with the memory of a new array on a GPU."""
        raise NotImplementedError

    def compact(self, value: Any, order: Sequence[int]) -> Any:
        """The array on a GPU with its axes in this order, C-ordered, a copy where it is not so.

        None where the library makes none.
        """
        return None


def is_one_of(value: Any, module: str, *names: str) -> bool:
    """Whether this is an instance of these classes, if their module has been imported."""
    loaded = sys.modules.get(module)
    # a class may be missing while another thread is still importing the module
    return loaded is not None and isinstance(value, tuple(getattr(loaded, n, ()) for n in names))


def elsewhere(device: object, cure: str) -> str:
    """Say that an array is not in the memory of the CPU."""
    return f"it lives on the device {device}, and is to be in the CPU's memory here: {cure}"
