"""What a forked child needs of Numba, made ready in its parent.

A child runs serial twins only. Where its parent has run the parallel one, the serial one may not
be there, and takes 2 s to compile for each variant: so it is compiled, or read from disk, before
the fork. The parent pays once for each variant, and a program that does not fork pays nothing.

No other thread may be compiling meanwhile: the child would inherit Numba's lock for ever locked,
with nobody to open it, and would wait for it when it has something to compile itself.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from fastxent.backends.numba_cpu.jit import numba
from fastxent.backends.numba_cpu.kernels import FORWARD, SHARED, Twins
from fastxent.backends.numba_cpu.mean_loss import MEAN_LOSS

__all__ = ["LONG_WAY", "prepare"]

_twins: list[Twins] = []

# In a child: dtype of the logits and whether they take tiles, where the kernel of small calls is
# not compiled and the others are.
LONG_WAY: set[tuple[np.dtype[Any], bool]] = set()


def prepare(*twins: Twins) -> None:
    """Before every fork, have the serial twin of each variant that ran on many threads."""
    _twins.extend(twins)


def _before() -> None:
    numba.core.compiler_lock.global_compiler_lock.acquire()
    for serial, parallel in _twins:
        for variant in parallel.overloads.keys() - serial.overloads.keys():
            serial.compile(variant)


def _after_in_parent() -> None:
    numba.core.compiler_lock.global_compiler_lock.release()


def _after_in_child() -> None:
    numba.core.compiler_lock.global_compiler_lock.release()
    absent = numba.types.none
    plain = {
        (np.dtype(zero.name), tiled != absent)
        for kernel in (FORWARD.parallel, SHARED.parallel)
        for _, tiled, _, massed, of_soft, prepared, zero in kernel.overloads
        if massed == of_soft == prepared == absent
    }
    small_calls: Any = MEAN_LOSS
    small = {
        (np.dtype(logits.dtype.name), tiled != absent)
        for logits, *_, tiled, _ in small_calls.overloads
    }
    LONG_WAY.update(plain - small)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child
    )
