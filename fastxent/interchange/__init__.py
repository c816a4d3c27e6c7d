"""Arrays of other libraries: their memory as NumPy arrays, and results as theirs, without a copy.

No library is imported here: who made an array has done that, and its module is in `sys.modules`.
One file a library; NumPy's own arrays, lists, and objects that only show their memory
(``__array_interface__``, ``__dlpack__``) get NumPy's arrays back.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastxent.device_array import DeviceArray
from fastxent.interchange import (
    array_api,
    cupy_arrays,
    device_memory,
    jax_arrays,
    numba_arrays,
    tensorflow_tensors,
    torch_tensors,
)
from fastxent.interchange.device_memory import UNKNOWN_DEVICE
from fastxent.interchange.library import Library, Wait
from fastxent.precision import Array

__all__ = ["UNKNOWN_DEVICE", "Home", "Library", "Wait", "home_of", "library_of"]

# Arrays of JAX and CuPy follow the standard too, and the last one is for objects of no library.
_LIBRARIES: tuple[Library, ...] = (
    torch_tensors.LIBRARY,
    jax_arrays.LIBRARY,
    tensorflow_tensors.LIBRARY,
    cupy_arrays.LIBRARY,
    numba_arrays.LIBRARY,
    array_api.LIBRARY,
    device_memory.LIBRARY,
)

_NO_LIBRARY = (np.ndarray, np.generic, list, tuple, float, int)


def library_of(value: Any) -> Library | None:
    """Library whose array this is; None for NumPy's, and for what is no library's array."""
    if isinstance(value, _NO_LIBRARY):
        return None
    return next((library for library in _LIBRARIES if library.owns(value)), None)


class Home(NamedTuple):
    """Where results go: to the library that an argument came from.

    Attributes
    ----------
    library : Library or None
        None for NumPy.
    like : object
        The argument.
    """

    library: Library | None
    like: Any

    @property
    def is_on_device(self) -> bool:
        """Whether the argument lies in the memory of a GPU."""
        return self.library is not None and self.library.is_on_device(self.like)

    def give_on_device(self, result: DeviceArray, wait: Wait) -> Any:
        """Array on a GPU, in memory of its place, as an array of this library."""
        assert self.library is not None
        return self.library.give_on_device(result, self.like, wait)

    def give(self, result: Any) -> Any:
        """NumPy array or scalar, as an array of this library."""
        if self.library is None:
            return result
        return self.library.give(np.asarray(result), self.like)

    def give_each(self, results: Any) -> Any:
        """Arrays of a named tuple likewise; what is None stays so."""
        if self.library is None:
            return results
        return type(results)(*(None if one is None else self.give(one) for one in results))

    def deliver(self, result: Array, out: Any) -> Any:
        """The caller's `out`, which has been written, or else the result as an array of here."""
        if out is None:
            return result if self.library is None else self.give(result)
        if type(out) is not np.ndarray:
            library = library_of(out)
            if library is not None:
                library.after_write(out)
        return out


_NUMPY = Home(None, None)


def home_of(value: Any) -> Home:
    """Home of the results of a call that got this as its first argument."""
    if type(value) is np.ndarray:
        return _NUMPY
    library = library_of(value)
    return _NUMPY if library is None else Home(library, value)
