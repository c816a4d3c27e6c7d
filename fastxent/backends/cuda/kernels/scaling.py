"""A gradient times the upstream one, in place or into memory of its own.

A backward pass whose upstream gradient is the 1 that almost every training step has costs no more
than reading that number: nothing else is touched.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba.cuda.extending import register_jitable

from fastxent.backends.cuda.kernels.numbers import SIZES, loader
from fastxent.backends.cuda.kernels.places import quotient
from fastxent.backends.cuda.kernels.storage import storage_of
from fastxent.backends.cuda.machine import (
    bits_of_float,
    block,
    cuda,
    double_of_words,
    float_of_bits,
    float_of_half,
    load_i64,
    load_vector,
    pack_bfloat,
    pack_half,
    store_vector,
    thread,
    words_of_double,
)
from fastxent.backends.cuda.specs import (
    ELEMENTS_A_THREAD,
    SCALED_VECTORS_A_THREAD,
    LoopGeometry,
    ScalingVariant,
)

__all__ = ["make"]

float32: Any = np.float32
float64: Any = np.float64
int64: Any = np.int64
uint32: Any = np.uint32

_VECTOR = 16


def make(variant: ScalingVariant, geometry: LoopGeometry) -> Callable[..., None]:
    """Give the kernel of one of the three forms."""
    if variant.form == "number":
        return _by_number(variant, geometry)
    return _by_element(variant, geometry)


def _compute(kind: str) -> str:
    return "float64" if kind == "float64" else "float32"


def _words(kind: str) -> Any:
    """Give a function that multiplies the numbers in two words."""
    DOUBLE = kind == "float64"
    of_word: Any = None if DOUBLE else _word(kind)

    @register_jitable
    def scaled(low: Any, high: Any, factor: Any) -> Any:
        if DOUBLE:
            return words_of_double(double_of_words(low, high) * factor)
        return of_word(low, factor), of_word(high, factor)

    return scaled


def _word(kind: str) -> Any:
    """Give a function that multiplies what is in one."""
    if kind == "float32":

        @register_jitable
        def of_word(word: Any, factor: Any) -> Any:
            return bits_of_float(float_of_bits(word) * factor)

    elif kind == "float16":

        @register_jitable
        def of_word(word: Any, factor: Any) -> Any:
            low = float_of_half(uint32(word & uint32(0xFFFF))) * factor
            return pack_half(low, float_of_half(uint32(word >> uint32(16))) * factor)

    else:

        @register_jitable
        def of_word(word: Any, factor: Any) -> Any:
            low = float_of_bits(uint32(word << uint32(16))) * factor
            return pack_bfloat(low, float_of_bits(uint32(word & uint32(0xFFFF0000))) * factor)

    return of_word


def _by_number(variant: ScalingVariant, geometry: LoopGeometry) -> Callable[..., None]:
    threads, aligned = geometry.threads, geometry.aligned
    size = SIZES[variant.kind]
    per_vector = _VECTOR // size
    vectors_a_block = threads * SCALED_VECTORS_A_THREAD
    words_a_thread = 4 * SCALED_VECTORS_A_THREAD
    compute = _compute(variant.kind)
    load_upstream = loader(variant.upstream, compute)
    load, store = loader(variant.kind, compute), storage_of(variant.kind).store
    scaled = _words(variant.kind)

    def kernel(
        source: Any,
        out: Any,
        upstream: Any,
        upstream_stride: Any,
        elements: Any,
        classes: Any,
        dims: Any,
        layout: Any,
    ) -> None:
        factor = load_upstream(upstream)
        if source != out or factor != 1:
            begin = int64(block()) * vectors_a_block + int64(thread())
            if aligned:
                words = cuda.local.array(words_a_thread, uint32)
                for v in range(SCALED_VECTORS_A_THREAD):
                    at = begin + v * threads
                    inside = (at + 1) * per_vector <= elements
                    a, b, c, d = load_vector(source + at * _VECTOR, inside, uint32(0))
                    words[4 * v], words[4 * v + 1] = a, b
                    words[4 * v + 2], words[4 * v + 3] = c, d
                for v in range(SCALED_VECTORS_A_THREAD):
                    at = begin + v * threads
                    inside = (at + 1) * per_vector <= elements
                    a, b = scaled(words[4 * v], words[4 * v + 1], factor)
                    c, d = scaled(words[4 * v + 2], words[4 * v + 3], factor)
                    store_vector(out + at * _VECTOR, a, b, c, d, inside)
            # what does not fill a vector, or all of it where vectors cannot be moved
            for v in range(SCALED_VECTORS_A_THREAD):
                first = (begin + v * threads) * per_vector
                if not aligned or first + per_vector > elements:
                    for k in range(first, min(first + per_vector, elements)):
                        store(out + k * size, load(source + k * size) * factor)

    return kernel


def _by_element(variant: ScalingVariant, geometry: LoopGeometry) -> Callable[..., None]:
    threads, of_rows = geometry.threads, variant.form == "rows"
    elements_a_block = threads * ELEMENTS_A_THREAD
    size, upstream_size = SIZES[variant.kind], SIZES[variant.upstream]
    compute = _compute(variant.kind)
    load_upstream = loader(variant.upstream, compute)
    load, store = loader(variant.kind, compute), storage_of(variant.kind).store

    @register_jitable
    def places(layout: Any, dims: Any, element: Any) -> Any:
        """Elements from the beginning of each of the three arrays."""
        source_at, out_at, upstream_at = int64(0), int64(0), int64(0)
        rest = element
        for step in range(dims):
            dim = dims - 1 - step
            extent = load_i64(layout + 8 * dim)
            before = quotient(rest, extent)
            index = rest - before * extent
            rest = before
            source_at += index * load_i64(layout + 8 * (dims + dim))
            out_at += index * load_i64(layout + 8 * (2 * dims + dim))
            upstream_at += index * load_i64(layout + 8 * (3 * dims + dim))
        return source_at, out_at, upstream_at

    def kernel(
        source: Any,
        out: Any,
        upstream: Any,
        upstream_stride: Any,
        elements: Any,
        classes: Any,
        dims: Any,
        layout: Any,
    ) -> None:
        begin = int64(block()) * elements_a_block + int64(thread())
        for k in range(ELEMENTS_A_THREAD):
            element = begin + k * threads
            if element < elements:
                if of_rows:
                    at = (element, element, quotient(element, classes) * upstream_stride)
                else:
                    at = places(layout, dims, element)
                factor = load_upstream(upstream + at[2] * upstream_size)
                store(out + at[1] * size, load(source + at[0] * size) * factor)

    return kernel
