"""The three matrix products of a chunk of rows: XLA's, on float32 or float64.

A matrix of the compute dtype is read where it lies. Half precision is widened by blocks of
classes, and its gradient, too, leaves float32 only block by block.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import lax

from fastxent.jax.blocks import added, each_block, put, taken, unseen, zeros
from fastxent.jax.handlers import call_rows

__all__ = ["bias_product", "hidden_product", "logits_of", "weight_product", "widened"]


def _dot(first: Any, second: Any, over: tuple[int, int]) -> Any:
    """Sum over one axis of each."""
    return lax.dot_general(first, second, (((over[0],), (over[1],)), ((), ())))


def widened(matrix: Any, start: Any, size: int, dtype: Any) -> Any:
    """A block of rows in a dtype with as much precision or more.

    XLA has no slices of bfloat16 on a CPU: it would make float32 of the whole matrix, and keep it.
    """
    if matrix.dtype != jnp.bfloat16:
        return taken(matrix, start, size).astype(dtype)
    return call_rows(matrix, start + jnp.arange(size, dtype=jnp.int32)).astype(dtype)


def logits_of(x: Any, matrix: Any, bias: Any, block: int) -> Any:
    """x @ matrix.T + bias."""
    if matrix.dtype == x.dtype:
        logits = _dot(x, matrix, (1, 1))
    else:

        def product(start: Any, first: Any, size: int, logits: Any) -> Any:
            of_block = widened(matrix, start, size, x.dtype)
            return put(logits, _dot(x, of_block, (1, 1)), start, 1)

        classes = matrix.shape[0]
        logits = each_block(classes, block, product, zeros((x.shape[0], classes), x.dtype, x))
    return logits if bias is None else _offset(logits, bias.astype(x.dtype), block)


def _offset(logits: Any, bias: Any, block: int) -> Any:
    """logits + bias, in place: XLA does that in a loop, and else takes memory for another array."""
    classes = bias.shape[0]

    def step(start: Any, first: Any, size: int, logits: Any) -> Any:
        return added(logits, unseen(taken(bias, start, size), start, first)[None], start, 1)

    return each_block(classes, min(block, -(-classes // 2)), step, logits)


def hidden_product(grad: Any, matrix: Any, block: int) -> Any:
    """grad @ matrix."""
    if matrix.dtype == grad.dtype:
        return _dot(grad, matrix, (1, 0))

    def product(start: Any, first: Any, size: int, total: Any) -> Any:
        of_block = widened(matrix, start, size, grad.dtype)
        columns = unseen(taken(grad, start, size, 1), start, first, 1)
        return total + _dot(columns, of_block, (1, 0))

    rows, features = grad.shape[0], matrix.shape[1]
    return each_block(matrix.shape[0], block, product, zeros((rows, features), grad.dtype, grad))


def weight_product(grad: Any, x: Any, block: int, total: Any, whole: bool) -> Any:
    """total + grad.T @ x; `whole` where the total is 0 so far, and may have half precision."""
    if whole and total.dtype == x.dtype:
        return _dot(grad, x, (0, 0))

    def product(start: Any, first: Any, size: int, total: Any) -> Any:
        columns = taken(grad, start, size, 1)
        if whole:
            return put(total, _dot(columns, x, (0, 0)), start)
        return added(total, _dot(unseen(columns, start, first, 1), x, (0, 0)), start)

    return each_block(grad.shape[1], block, product, total)


def bias_product(grad: Any, factor: Any) -> Any:
    """Sum of the rows of grad, each times its factor."""
    return jnp.squeeze(_dot(factor[None], grad, (1, 0)), 0)
