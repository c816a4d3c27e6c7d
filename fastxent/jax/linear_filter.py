"""Backward products without the classes whose gradient is small in every row of a chunk.

The classes that remain are put first, and a loop takes them a block at a time: how many times it
runs is known only then, which XLA's shapes do not mind. The last block is filled with classes that
could have been left out.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import lax

from fastxent.jax.blocks import zeros
from fastxent.jax.handlers import call_rows

__all__ = ["FILTER_BLOCK", "filtered_products", "kept_classes"]

# Classes of a block, at most: what is left out comes in full blocks only.
FILTER_BLOCK = 128


def kept_classes(grad: Any, least: float) -> Any:
    """Which columns have an entry that is not below `least` in size; a NaN is not."""
    return ~(jnp.max(jnp.abs(grad), axis=0) < least)


def filtered_products(
    grad: Any, kept: Any, matrix: Any, x: Any, block: int, total: Any
) -> tuple[Any, Any]:
    """grad @ matrix and total + grad.T @ x over the classes that are kept.

    `matrix` is None where the first is not wanted, `x` and `total` where the second is not.
    """
    rows, classes = grad.shape
    count = -(-classes // block)
    order = jnp.argsort(~kept, stable=True)
    order = jnp.pad(order, (0, count * block - classes), constant_values=classes)
    steps = (jnp.sum(kept) + block - 1) // block

    def step(i: Any, carry: tuple[Any, Any]) -> tuple[Any, Any]:
        product, total = carry
        places = lax.dynamic_slice_in_dim(order, i * block, block)
        columns = jnp.take(grad, places, 1, mode="fill", fill_value=0)
        if matrix is not None:
            product = product + columns @ _rows(matrix, places).astype(grad.dtype)
        if total is not None:
            total = total.at[places].add(columns.T @ x, mode="drop", unique_indices=False)
        return product, total

    product = None if matrix is None else zeros((rows, matrix.shape[1]), grad.dtype, grad)
    product, total = lax.fori_loop(0, steps, step, (product, total))
    return product, total


def _rows(matrix: Any, places: Any) -> Any:
    if matrix.dtype == jnp.bfloat16:
        return call_rows(matrix, places.astype(jnp.int32))
    return jnp.take(matrix, places, 0, mode="fill", fill_value=0)
