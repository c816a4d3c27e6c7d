"""Where a row's target puts mass besides the label: lanes in memory, a step for each class apart.

Kernels whose dummy `massed` is None do not look at them. The C++ twin is src_cython/target.hpp.
"""

# ruff: noqa: SIM102 (Numba leaves out what stands behind a bare `is not None`: see kernels.py)

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastxent.backends.numba_cpu.jit import inlined
from fastxent.backends.numba_cpu.lanes import load, pointer
from fastxent.backends.numba_cpu.matrix import row_of
from fastxent.backends.numba_cpu.transform import prepare_mass

__all__ = ["Masses", "mass_at", "masses_of_block"]


class Masses(NamedTuple):
    """Of the classes of a block, or of all classes of a tile, which has lanes for each.

    The step is 0 for a constant, which fills 64 bytes.
    """

    numbers: Any
    step: Any


@inlined
def mass_at(target: Masses, k: int, some: int | None, zero: Any) -> Any:
    """Lanes of t, from class k on."""
    return load(target.numbers, k * target.step, some, 0.0, zero)


@inlined
def masses_of_block(
    p: Any, row: int, begin: int, n: int, space: Any, massed: Any, of_soft: Any,
    prepared: Any, zero: Any,
) -> Masses:  # fmt: skip
    """Masses of n classes from `begin` on; `space` has room for a block."""
    numbers, step = space, np.int64(1)
    if massed is not None:
        numbers, step = pointer(p.background, begin * p.background_step, zero), p.background_step
    if of_soft is not None:
        soft, step = row_of(p.soft, row), np.int64(1)
        numbers = pointer(soft, begin, zero)
        if prepared is not None:
            if p.soft_directly == 0:
                prepare_mass(p, soft, begin, n, space, zero)
                numbers = space
    return Masses(numbers, step)
