"""Launches through the driver's library itself: one call of a C function, prepared once.

The bindings of NVIDIA do everything else; a launch through them builds its arguments anew.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
import threading
from collections.abc import Iterator
from typing import Any

from fastxent import checks

__all__ = ["Library", "open_library"]

# What CUDA passes to a kernel at most, before 12.1.
_MOST_BYTES = 4096

# Of cuda.h: the two entries of a launch's `extra` that stand before a pointer, and their end.
_BUFFER_POINTER, _BUFFER_SIZE, _END = 1, 2, 0


def open_library() -> Any:
    """Open the library that the driver installs."""
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    return ctypes.CDLL(name)


class _Own(threading.local):
    """What each thread has prepared."""

    def __init__(self) -> None:
        self.memory = ctypes.create_string_buffer(_MOST_BYTES)
        self.size = ctypes.c_size_t()
        self.context = ctypes.c_void_p()
        self.address = ctypes.addressof(self.memory)
        entries = (_BUFFER_POINTER, self.address, _BUFFER_SIZE, ctypes.addressof(self.size), _END)
        self.extra = (ctypes.c_void_p * len(entries))(*entries)


class Library:
    """Those functions of the driver's library that a launch needs.

    Parameters
    ----------
    library : ctypes.CDLL
        Or what has functions of these names.
    """

    def __init__(self, library: Any) -> None:
        self._own = _Own()
        pointer, count = ctypes.c_void_p, ctypes.c_uint
        self._get = _function(library.cuCtxGetCurrent, pointer)
        self._push = _function(library.cuCtxPushCurrent_v2, pointer)
        self._pop = _function(library.cuCtxPopCurrent_v2, pointer)
        self._launch = _function(
            library.cuLaunchKernel, pointer, *[count] * 7, pointer, pointer, pointer
        )

    @contextlib.contextmanager
    def within(self, context: int) -> Iterator[None]:
        """Make a context the current one, and then the one that the caller had."""
        entered = self._enter(context)
        try:
            yield
        finally:
            if entered:
                self._leave()

    def launch(
        self,
        function: int,
        context: int,
        grid: int,
        threads: int,
        arguments: bytes,
        stream: int,
    ) -> int:
        """Start a kernel, with arguments of 8 bytes each; give the driver's code, 0 for success."""
        own = self._own
        if len(arguments) > _MOST_BYTES:
            raise ValueError(f"{len(arguments)} bytes of arguments")
        ctypes.memmove(own.address, arguments, len(arguments))
        own.size.value = len(arguments)
        entered = self._enter(context)
        try:
            code: int = self._launch(
                function, grid, 1, 1, threads, 1, 1, 0, stream, None, own.extra
            )
        finally:
            if entered:
                self._leave()
        return code

    def _enter(self, context: int) -> bool:
        """Make a context current, and tell whether it was not."""
        current = self._own.context
        code = self._get(ctypes.byref(current))
        if code == 0 and current.value == context:
            return False
        code = code or self._push(context)
        if code:
            checks.raise_backend(f"CUDA error {code}: the device cannot be made the current one")
        return True

    def _leave(self) -> None:
        self._pop(ctypes.byref(self._own.context))


def _function(function: Any, *arguments: Any) -> Any:
    function.argtypes, function.restype = arguments, ctypes.c_int
    return function
