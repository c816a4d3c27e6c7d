"""The Jacobian of the softmax, or of its logarithm, times a gradient: two reads, a sum, a write.

out = p * (grad - sum p * grad)        or        out = grad - exp(log_p) * sum grad

Products are taken in the dtype that computes and added up in float64, as
fastxent.backends.numpy_jacobian does. An element's inputs are read again before it is written, by
the thread that writes it, so that `out` may be one of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba.cuda.extending import register_jitable

from fastxent.backends.cuda.kernels.numbers import SIZES, block_summer, loader
from fastxent.backends.cuda.kernels.places import class_stride, coordinates, row_offset
from fastxent.backends.cuda.kernels.storage import storage_of
from fastxent.backends.cuda.machine import block, shared_memory, thread
from fastxent.backends.cuda.specs import JacobianVariant, LoopGeometry

__all__ = ["make"]

float32: Any = np.float32
float64: Any = np.float64
int64: Any = np.int64


def make(variant: JacobianVariant, geometry: LoopGeometry) -> Callable[..., None]:
    """Give the kernel: a block for each row of contiguous classes, or a thread for any row."""
    threads = geometry.threads
    warps = threads // 32
    memory_size = 8 * warps
    block_sum = block_summer(float64, warps, everyone=True)
    compute = "float64" if variant.kind == "float64" else "float32"
    number = float64 if compute == "float64" else float32
    size, is_log = SIZES[variant.kind], variant.is_log
    load, store = loader(variant.kind, compute), storage_of(variant.kind).store

    @register_jitable
    def sum_of(walk: Any, begin: Any, step: Any, classes: Any) -> Any:
        """Part of the row's sum: of every `step`-th class."""
        first, first_stride, grad, grad_stride, _, _ = walk
        total = float64(0)
        k = begin
        while k < classes:
            g = load(grad + k * grad_stride)
            total += float64(g if is_log else load(first + k * first_stride) * g)
            k += step
        return total

    @register_jitable
    def write(walk: Any, begin: Any, step: Any, classes: Any, total: Any) -> None:
        first, first_stride, grad, grad_stride, out, out_stride = walk
        total = number(total)
        k = begin
        while k < classes:
            p, g = load(first + k * first_stride), load(grad + k * grad_stride)
            if is_log:
                store(out + k * out_stride, g - number(math.exp(p)) * total)
            else:
                store(out + k * out_stride, p * (g - total))
            k += step

    def of_block(
        first: Any,
        first_pitch: Any,
        grad: Any,
        grad_pitch: Any,
        out: Any,
        out_pitch: Any,
        rows: Any,
        classes: Any,
        layout: Any,
    ) -> None:
        row, t = int64(block()), int64(thread())
        walk = (
            *(first + row * first_pitch * size, int64(size)),
            *(grad + row * grad_pitch * size, int64(size)),
            *(out + row * out_pitch * size, int64(size)),
        )
        total = sum_of(walk, t, threads, classes)
        total = block_sum(total, t, shared_memory(memory_size))
        write(walk, t, threads, classes, total)

    def of_thread(
        first: Any,
        first_pitch: Any,
        grad: Any,
        grad_pitch: Any,
        out: Any,
        out_pitch: Any,
        rows: Any,
        classes: Any,
        layout: Any,
    ) -> None:
        row = int64(block()) * threads + int64(thread())
        if row < rows:
            indices = coordinates(layout, row)
            walk = (
                *(first + row_offset(layout, 0, indices) * size, class_stride(layout, 0) * size),
                *(grad + row_offset(layout, 1, indices) * size, class_stride(layout, 1) * size),
                *(out + row_offset(layout, 2, indices) * size, class_stride(layout, 2) * size),
            )
            total = sum_of(walk, int64(0), 1, classes)
            write(walk, int64(0), 1, classes, total)

    return of_thread if variant.form == "strided" else of_block
