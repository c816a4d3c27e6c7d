"""Loops over blocks of rows or classes, unrolled by nobody, and what blocks of arrays are.

All blocks have one size, as XLA needs it: the last one begins so that it ends with the array, and
what it has in common with the one before is computed twice. Sums leave it out by its number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import lax

from fastxent.jax.manual_axes import alike

__all__ = ["added", "each_block", "is_new", "put", "taken", "unseen", "zeros"]


def each_block(total: int, size: int, body: Callable[[Any, Any, int, Any], Any], carry: Any) -> Any:
    """Give `body(start, first, size, carry)` each block in turn; `first` is the first new place."""
    if total == 0:
        return carry
    count = -(-total // size)
    if count == 1:
        return body(0, 0, total, carry)

    def step(i: Any, carry: Any) -> Any:
        return body(jnp.minimum(i * size, total - size), i * size, size, carry)

    return lax.fori_loop(0, count, step, carry)


def taken(array: Any, start: Any, size: int, axis: int = 0) -> Any:
    """A block of an array."""
    if isinstance(start, int) and start == 0 and size == array.shape[axis]:
        return array
    return lax.dynamic_slice_in_dim(array, start, size, axis)


def put(array: Any, block: Any, start: Any, axis: int = 0) -> Any:
    """The array with a block of it replaced; XLA does that where it lies."""
    block = block.astype(array.dtype)
    return block if block.shape == array.shape else _updated(array, block, start, axis)


def _updated(array: Any, block: Any, start: Any, axis: int) -> Any:
    return lax.dynamic_update_slice_in_dim(array, block, start, axis)


def added(array: Any, block: Any, start: Any, axis: int = 0) -> Any:
    """The array with something added to a block of it."""
    return put(array, taken(array, start, block.shape[axis], axis) + block, start, axis)


def is_new(start: Any, first: Any, size: int) -> Any:
    """Which places of a block were not in the block before."""
    return start + jnp.arange(size) >= first


def unseen(block: Any, start: Any, first: Any, axis: int = 0) -> Any:
    """The block with 0 in the places that were in the block before."""
    if isinstance(first, int):
        return block
    new = is_new(start, first, block.shape[axis])
    return jnp.where(jnp.expand_dims(new, [at for at in range(block.ndim) if at != axis]), block, 0)


def zeros(shape: tuple[int, ...], dtype: Any, like: Any) -> Any:
    """Zeros that vary along the mesh axes of `like`, as what a loop carries does from the start."""
    (_, filled), _ = alike([like, jnp.zeros(shape, dtype)], [])
    return filled
