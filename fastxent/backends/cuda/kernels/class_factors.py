"""Factors of classes from weights that are on the device: what fastxent.mass does on the host.

Each is rounded as there: a product in float64, then to what computes. The weights themselves are
not checked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fastxent.backends.cuda.kernels.numbers import SIZES, block_summer, loader
from fastxent.backends.cuda.kernels.storage import storage_of
from fastxent.backends.cuda.machine import shared_memory, store_f64, thread
from fastxent.backends.cuda.specs import ClassFactorsVariant, LoopGeometry

__all__ = ["make"]

float32: Any = np.float32
float64: Any = np.float64
int64: Any = np.int64


def make(variant: ClassFactorsVariant, geometry: LoopGeometry) -> Callable[..., None]:
    """Give the kernel of one block, which also adds up the background, as it is rounded."""
    threads = geometry.threads
    warps = threads // 32
    memory_size = 8 * warps
    block_sum = block_summer(float64, warps)
    weight_size, size = SIZES[variant.weight], SIZES[variant.compute]
    load_weight, store = loader(variant.weight, "float64"), storage_of(variant.compute).store
    number = float32 if variant.compute == "float32" else float64

    def kernel(
        weight: Any,
        spike_of: Any,
        background_of: Any,
        background_total: Any,
        gain_of: Any,
        classes: Any,
        on_label: Any,
        share: Any,
    ) -> None:
        t = int64(thread())
        total = float64(0)
        k = t
        while k < classes:
            w = load_weight(weight + k * weight_size)
            background = number(w * share)
            total += float64(background)
            if spike_of != 0:
                store_f64(spike_of + 8 * k, w * on_label)
            if background_of != 0:
                store(background_of + k * size, background)
            if gain_of != 0:
                store(gain_of + k * size, number(w * on_label))
            k += threads
        total = block_sum(total, t, shared_memory(memory_size))
        if t == 0 and background_total != 0:
            store_f64(background_total, total)

    return kernel
