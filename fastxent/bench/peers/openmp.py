"""One OpenMP runtime for all peers of a process."""

from __future__ import annotations

import ctypes
import functools

__all__ = ["share"]


@functools.cache
def share() -> bool:
    """Load the system's libgomp where all libraries see it; tell whether there is one.

    scikit-learn ships a renamed copy of libgomp, and two runtimes mean two pools of threads, each
    of which spins for milliseconds after its last region, on the cores that the other one needs.
    Measured on 2 cores at 512x1000, in turns: imported before PyTorch, scikit-learn takes 4.4 ms
    instead of 1.5 and the cython backend 0.52 instead of 0.35; with libgomp loaded first, both
    orders give the lower number. Symbols of the first library that is loaded for everybody win, so
    it has to happen before any of them is imported.
    """
    try:
        ctypes.CDLL("libgomp.so.1", mode=ctypes.RTLD_GLOBAL)
    except OSError:
        return False
    return True
