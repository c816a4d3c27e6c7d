"""Numba's lock across a fork.

A thread that compiles holds it. A child that is forked meanwhile would inherit it locked for ever,
with nobody to open it, and wait for it as soon as it has something to compile itself. So a fork
waits until nobody compiles.
"""

from __future__ import annotations

import os
import threading

from fastxent.backends.numba_cpu.jit import numba

__all__ = ["guard"]


_held = threading.local()


def _acquire() -> None:
    _held.lock = False  # Ctrl-C may end the wait; Python then says so and forks all the same
    numba.core.compiler_lock.global_compiler_lock.acquire()
    _held.lock = True


def _release() -> None:
    if _held.lock:
        numba.core.compiler_lock.global_compiler_lock.release()


def guard() -> None:
    """Hold Numba's lock during every fork of this process."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=_acquire, after_in_parent=_release, after_in_child=_release)
