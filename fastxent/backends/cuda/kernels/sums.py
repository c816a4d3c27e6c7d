"""The sum of the partial sums that the blocks of another kernel wrote, divided: one block.

The order depends on their number only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fastxent.backends.cuda.kernels.numbers import block_summer
from fastxent.backends.cuda.machine import (
    cuda,
    load_f64,
    load_i64,
    shared_memory,
    store_f32,
    store_f64,
    thread,
)
from fastxent.backends.cuda.specs import LoopGeometry, SumsVariant

__all__ = ["make"]

float32: Any = np.float32
float64: Any = np.float64
int64: Any = np.int64

# Numbers that each thread has under way at once: a million rows of ten classes leave 4,096 sums,
# four for each thread of a block of 1,024.
_TOGETHER = 8
_NAN = float64(np.nan)


def make(variant: SumsVariant, geometry: LoopGeometry) -> Callable[..., None]:
    """Give the kernel: sum / divisor / denominator, and what comes of a denominator of 0."""
    threads = geometry.threads
    warps = threads // 32
    size = 8 * warps
    block_sum = block_summer(float64, warps)
    stride = threads * _TOGETHER
    is_single = variant.kind == "float32"

    def kernel(
        partial: Any,
        count: Any,
        denominator: Any,
        zero_when_empty: Any,
        bad_row: Any,
        total: Any,
        divisor: Any,
    ) -> None:
        t = int64(thread())
        found = float64(0)
        first = t
        taken = cuda.local.array(_TOGETHER, float64)
        while first < count:
            # past the end the last one is read again and not added
            for k in range(_TOGETHER):
                taken[k] = load_f64(partial + 8 * min(first + k * threads, count - 1))
            for k in range(_TOGETHER):
                if first + k * threads < count:
                    found += taken[k]
            first += stride
        found = block_sum(found, t, shared_memory(size))
        if t == 0:
            result, below = found / divisor, float64(1)
            if denominator != 0:
                below = load_f64(denominator)
                result = result / below
            if divisor == 0.0 or below == 0.0:
                is_zero = zero_when_empty != 0
                # nothing counted, but a bad label should have
                if bad_row != 0 and load_i64(bad_row) >= 0:
                    is_zero = False
                result = float64(0) if is_zero else _NAN
            if is_single:
                store_f32(total, float32(result))
            else:
                store_f64(total, result)

    return kernel
