"""The pieces of a graph: calls for every block, and what is added up over all of them."""

from __future__ import annotations

import functools
from typing import Any

import dask.array as da
import numpy as np
from dask.layers import ArraySliceDep

from fastxent.dask.blocks import added, mass_of_block, mean, taken
from fastxent.dask.operands import Operands
from fastxent.precision import Array

__all__ = ["argument", "asides_of", "blockwise", "denominator_of", "reduced"]


def _meta(dimensions: int, dtype: Any) -> Array:
    return np.empty((0,) * dimensions, dtype)


def blockwise(function: Any, out: tuple[int, ...], *operands: Any, dtype: Any, **more: Any) -> Any:
    """Call a function for every block; blocks along axes that are not in `out` come as lists."""
    return da.blockwise(
        function,
        out,
        *operands,
        dtype=np.dtype(dtype),
        meta=_meta(len(out), dtype),
        align_arrays=False,
        concatenate=False,
        **more,
    )


def argument(value: Any, axes: tuple[int, ...]) -> tuple[Any, Any]:
    """An operand and its indices: None for what is the same number in every block."""
    if not isinstance(value, da.Array):
        return value, None
    return value, axes if value.ndim else ()


def _sum(parts: Any) -> Any:
    """Sum of one number a block."""
    if not parts.ndim:
        return parts
    number = _meta(0, np.float64)
    return da.reduction(
        parts, added, added, dtype=np.dtype(np.float64), split_every=64, meta=number
    )


def denominator_of(operands: Operands) -> Any:
    """What the mean divides by: a number where that is known, else a dask array without axes."""
    options, rows = operands.settings.options, operands.row_axes
    if options.reduction != "mean":
        return None
    if operands.normalizer is not None:
        return operands.normalizer
    counts_rows = operands.sample_weight is None and options.weight is None
    counts_rows = counts_rows and options.ignore_index is None
    if (operands.hard and counts_rows) or (not operands.hard and operands.sample_weight is None):
        return float(
            np.prod([float(sum(sizes)) for sizes in operands.row_chunks], dtype=np.float64)
        )
    function = functools.partial(
        mass_of_block, settings=operands.settings, num_classes=operands.logits.shape[operands.axis]
    )
    # probabilities count through their rows' weights alone
    target = operands.target if operands.hard else operands.sample_weight
    masses = blockwise(
        function,
        rows,
        *(target, rows),
        *argument(operands.sample_weight, rows),
        *(ArraySliceDep(operands.row_chunks), rows),
        dtype=np.float64,
        adjust_chunks=dict.fromkeys(rows, 1),
    )
    return _sum(masses)


def reduced(results: Any, operands: Operands, denominator: Any) -> Any:
    """The loss, from results of blocks that have `loss` or `total`."""
    rows, options, loss = operands.row_axes, operands.settings.options, operands.precision.loss
    if options.reduction == "none":
        take = functools.partial(taken, name="loss")
        return blockwise(take, rows, *(results, rows), dtype=loss)
    take = functools.partial(taken, name="total")
    ones = dict.fromkeys(rows, 1)
    parts = blockwise(take, rows, *(results, rows), dtype=np.float64, adjust_chunks=ones)
    finish = functools.partial(mean, all_ignored=options.all_ignored, dtype=loss)
    divisor = 1.0 if denominator is None else denominator
    return blockwise(finish, (), *(_sum(parts), ()), *argument(divisor, ()), dtype=loss)


def asides_of(results: Any, operands: Operands) -> dict[str, Any]:
    """Side outputs of one number a row, from results of blocks that have `aux`."""
    rows, loss = operands.row_axes, operands.precision.loss
    dtypes: dict[str, Any] = {"argmax": np.int64, "correct": np.bool_}
    return {
        name: blockwise(
            functools.partial(taken, name=name),
            rows,
            *(results, rows),
            dtype=dtypes.get(name, loss),
        )
        for name in operands.asked
        if name != "target_grad"
    }
