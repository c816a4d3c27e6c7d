"""The factor of each row's gradient: the product of up to three, each a number or one a row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba.cuda.extending import register_jitable

from fastxent.backends.cuda.kernels.numbers import SIZES, loader
from fastxent.backends.cuda.machine import block, store_f64, thread
from fastxent.backends.cuda.specs import ELEMENTS_A_THREAD, LoopGeometry, RowFactorsVariant

__all__ = ["make"]

int64: Any = np.int64


def _factor(kind: str) -> Any:
    """Give a function for the factor of a row, from where it is or the number it is."""
    IS_NUMBER = kind == ""
    size, load = SIZES.get(kind, 0), loader(kind or "float64", "float64")

    @register_jitable
    def of_row(address: Any, stride: Any, number: Any, row: Any) -> Any:
        if IS_NUMBER:
            return number
        return load(address + row * stride * size)

    return of_row


def make(variant: RowFactorsVariant, geometry: LoopGeometry) -> Callable[..., None]:
    """Give the kernel; the products are taken in float64, from the first to the third."""
    threads = geometry.threads
    rows_a_block = threads * ELEMENTS_A_THREAD
    first_of, second_of = _factor(variant.first), _factor(variant.second)
    third_of = _factor(variant.third)

    def kernel(
        first: Any,
        first_stride: Any,
        second: Any,
        second_stride: Any,
        third: Any,
        third_stride: Any,
        row_scale: Any,
        rows: Any,
        first_number: Any,
        second_number: Any,
        third_number: Any,
    ) -> None:
        begin = int64(block()) * rows_a_block + int64(thread())
        for k in range(ELEMENTS_A_THREAD):
            row = begin + k * threads
            if row < rows:
                product = first_of(first, first_stride, first_number, row)
                product = product * second_of(second, second_stride, second_number, row)
                product = product * third_of(third, third_stride, third_number, row)
                store_f64(row_scale + 8 * row, product)

    return kernel
