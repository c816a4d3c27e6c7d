"""Loss and gradient of elements that are each a choice of two, in one pass: the verb binary.

The formulas are those of fastxent.backends.numpy_binary. An integer target that is neither 0 nor 1
gives a loss of NaN, and a gradient and Hessian of 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba.cuda.extending import register_jitable

from fastxent.backends.cuda.kernels.numbers import SIZES, block_summer, loader
from fastxent.backends.cuda.kernels.places import quotient
from fastxent.backends.cuda.kernels.storage import storage_of
from fastxent.backends.cuda.machine import (
    block,
    cuda,
    load_i64,
    shared_memory,
    store_f64,
    thread,
)
from fastxent.backends.cuda.specs import ELEMENTS_A_THREAD, BinaryVariant, LoopGeometry

__all__ = ["make"]

float32: Any = np.float32
float64: Any = np.float64
int64: Any = np.int64

_ARRAYS = 9  # that have strides


def _element(variant: BinaryVariant) -> Any:
    """Give the function for one element: what it computes, and whether the target is bad."""
    number = float32 if variant.kind != "float64" else float64
    is_integer, curvature = variant.is_integer, variant.curvature
    is_distance = curvature == "distance"
    zero, one, nan = number(0), number(1), number(np.nan)

    @register_jitable
    def of_element(x: Any, y: Any, factors: Any, rule: Any) -> Any:
        """Loss, gradient, sigma(x), Hessian, and whether the target is bad."""
        ones, factor, upstream, gain, background = factors
        positive = ones * (gain * y + background)
        negative = gain * (one - y) + background
        above = x >= zero
        size = abs(x)
        e = number(math.exp(-size))
        linear = negative if above else positive
        # a side without mass counts for nothing, be its logarithm infinite
        rest = linear * size if linear != zero else zero
        loss = factor * ((positive + negative) * number(math.log1p(e)) + rest)
        scale = factor * upstream
        of_one = one if above else e
        of_zero = e if above else one
        sides = negative * of_one - positive * of_zero
        below = one + e
        grad = scale * sides / below
        proba, hess = zero, zero
        if curvature:
            proba = of_one / below
            share = abs(sides) if is_distance else of_one * of_zero / below
            hess = share / below * scale * rule[0]
        bad = False
        if is_integer:
            bad = y != zero and y != one
            if bad:
                loss, grad, hess = nan, zero, zero
        if curvature and hess < rule[1]:
            hess = rule[1]
        return loss, grad, proba, hess, bad

    return of_element


def make(variant: BinaryVariant, geometry: LoopGeometry) -> Callable[..., None]:
    """Give the kernel; each block adds up the losses of its elements."""
    threads = geometry.threads
    warps = threads // 32
    memory_size = 8 * warps
    block_sum = block_summer(float64, warps)
    elements_a_block = threads * ELEMENTS_A_THREAD
    compute = "float64" if variant.kind == "float64" else "float32"
    number = float64 if compute == "float64" else float32
    size, target_size, compute_size = SIZES[variant.kind], SIZES[variant.target], SIZES[compute]
    load_logit, load_target = loader(variant.kind, compute), loader(variant.target, compute)
    load_factor = loader(compute, compute)
    store, store_loss = storage_of(variant.kind).store, storage_of(compute).store
    of_element = _element(variant)
    is_dense, curvature = variant.form == "dense", variant.curvature
    # where memory is without gaps, all loads come before the first store; else each element's
    # places in nine arrays would take too many registers
    together = ELEMENTS_A_THREAD if is_dense else 1
    turns = ELEMENTS_A_THREAD // together

    @register_jitable
    def find(offsets: Any, layout: Any, dims: Any, element: Any) -> None:
        """Elements from the beginning of each array to this element."""
        for array in range(_ARRAYS):
            offsets[array] = int64(0)
        rest = element
        for step in range(dims):
            dim = dims - 1 - step
            extent = load_i64(layout + 8 * dim)
            before = quotient(rest, extent) if dim != 0 else int64(0)
            index = rest - before * extent
            rest = before
            for array in range(_ARRAYS):
                stride = load_i64(layout + 8 * (dims * (array + 1) + dim))
                offsets[array] += index * stride

    def kernel(
        logits: Any,
        target: Any,
        ones: Any,
        factor: Any,
        upstream: Any,
        loss: Any,
        grad: Any,
        proba: Any,
        hess: Any,
        partial: Any,
        bad_partial: Any,
        elements: Any,
        dims: Any,
        layout: Any,
        ones_number: Any,
        factor_number: Any,
        upstream_number: Any,
        gain: Any,
        background: Any,
        hess_factor: Any,
        hess_floor: Any,
    ) -> None:
        t = int64(thread())
        begin = int64(block()) * elements_a_block + t
        total, bad_ones = float64(0), float64(0)
        offsets = cuda.local.array(_ARRAYS, int64)
        x, y = cuda.local.array(together, number), cuda.local.array(together, number)
        of_ones = cuda.local.array(together, number)
        of_factor = cuda.local.array(together, number)
        of_upstream = cuda.local.array(together, number)
        for turn in range(turns):
            for k in range(together):
                # past the end the last element is read again and not written
                element = min(begin + (turn * together + k) * threads, elements - 1)
                if is_dense:
                    for array in range(_ARRAYS):
                        offsets[array] = element
                else:
                    find(offsets, layout, dims, element)
                x[k] = load_logit(logits + offsets[0] * size)
                y[k] = load_target(target + offsets[1] * target_size)
                of_ones[k], of_factor[k] = number(ones_number), number(factor_number)
                of_upstream[k] = number(upstream_number)
                if ones != 0:
                    of_ones[k] = load_factor(ones + offsets[2] * compute_size)
                if factor != 0:
                    of_factor[k] = load_factor(factor + offsets[3] * compute_size)
                if upstream != 0:
                    of_upstream[k] = load_factor(upstream + offsets[4] * compute_size)
            for k in range(together):
                element = begin + (turn * together + k) * threads
                if element < elements:
                    if is_dense:
                        for array in range(_ARRAYS):
                            offsets[array] = element
                    factors = (
                        of_ones[k],
                        of_factor[k],
                        of_upstream[k],
                        number(gain),
                        number(background),
                    )
                    rule = (number(hess_factor), number(hess_floor))
                    found = of_element(x[k], y[k], factors, rule)
                    total += float64(found[0])
                    if found[4]:
                        bad_ones += float64(1)
                    if loss != 0:
                        store_loss(loss + offsets[5] * compute_size, found[0])
                    if grad != 0:
                        store(grad + offsets[6] * size, found[1])
                    if curvature:
                        if proba != 0:
                            store(proba + offsets[7] * size, found[2])
                        if hess != 0:
                            store(hess + offsets[8] * size, found[3])
        total = block_sum(total, t, shared_memory(memory_size))
        bad_ones = block_sum(bad_ones, t, shared_memory(memory_size))
        if t == 0:
            if partial != 0:
                store_f64(partial + 8 * int64(block()), total)
            if bad_partial != 0:
                store_f64(bad_partial + 8 * int64(block()), bad_ones)

    return kernel
