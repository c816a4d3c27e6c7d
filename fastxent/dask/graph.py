"""The graph of a call: one task a block for the pass, one for each result that is taken from it."""

from __future__ import annotations

import functools
from typing import Any

import dask.array as da
import numpy as np
from dask.layers import ArraySliceDep

from fastxent.dask.blocks import added, mass_of_block, mean, result_of_block, taken
from fastxent.dask.operands import Operands
from fastxent.precision import Array
from fastxent.side_outputs import Aux

__all__ = ["denominator_of", "loss_and_grad"]


def _meta(dimensions: int, dtype: Any) -> Array:
    return np.empty((0,) * dimensions, dtype)


def _blockwise(function: Any, out: tuple[int, ...], *operands: Any, dtype: Any, **more: Any) -> Any:
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


def _argument(value: Any, axes: tuple[int, ...]) -> tuple[Any, Any]:
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
    masses = _blockwise(
        function,
        rows,
        *(target, rows),
        *_argument(operands.sample_weight, rows),
        *(ArraySliceDep(operands.row_chunks), rows),
        dtype=np.float64,
        adjust_chunks=dict.fromkeys(rows, 1),
    )
    return _sum(masses)


def loss_and_grad(operands: Operands) -> tuple[Any, Any, Aux | None]:
    """Loss, gradient (None if it is not wanted), and side outputs (None without any), lazily."""
    rows, every, settings = operands.row_axes, operands.all_axes, operands.settings
    reduction, loss = settings.options.reduction, operands.precision.loss
    denominator = denominator_of(operands)
    function = functools.partial(result_of_block, settings=settings)
    results = _blockwise(
        function,
        rows,
        *(operands.logits, every),
        *(operands.target, rows if operands.hard else every),
        *_argument(operands.sample_weight, rows),
        *_argument(operands.grad_output, rows),
        *_argument(denominator, ()),
        *(ArraySliceDep(operands.row_chunks), rows),
        dtype=object,
    )

    def of_rows(name: str, dtype: Any, **more: Any) -> Any:
        function = functools.partial(taken, name=name)
        return _blockwise(function, rows, *(results, rows), dtype=dtype, **more)

    def of_classes(name: str, dtype: Any) -> Any:
        function, sizes = functools.partial(taken, name=name), operands.logits.chunks[operands.axis]
        classes = {operands.axis: sizes}
        return _blockwise(function, every, *(results, rows), dtype=dtype, new_axes=classes)

    if reduction == "none":
        value = of_rows("loss", loss)
    else:
        parts = of_rows("total", np.float64, adjust_chunks=dict.fromkeys(rows, 1))
        finish = functools.partial(mean, all_ignored=settings.options.all_ignored, dtype=loss)
        divisor = 1.0 if denominator is None else denominator
        totals = _sum(parts)
        value = _blockwise(finish, (), *(totals, ()), *_argument(divisor, ()), dtype=loss)
    grad = of_classes("grad", operands.precision.storage) if settings.wants_grad else None
    if not operands.asked:
        return value, grad, None
    side: dict[str, Any] = {}
    for name in operands.asked:
        if name == "target_grad":
            given = operands.target.dtype
            side[name] = of_classes(
                name, operands.precision.storage if given.kind == "b" else given
            )
        else:
            side[name] = of_rows(name, {"argmax": np.int64, "correct": np.bool_}.get(name, loss))
    return value, grad, Aux(**side)
