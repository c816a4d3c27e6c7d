"""The way of logits whose blocks have whole rows: one pass over each, and nothing is exchanged."""

from __future__ import annotations

import functools
from typing import Any

from dask.layers import ArraySliceDep

from fastxent.dask.blocks import result_of_block, taken
from fastxent.dask.graph import argument, asides_of, blockwise, denominator_of, reduced
from fastxent.dask.operands import Operands
from fastxent.side_outputs import Aux

__all__ = ["of_whole_rows"]


def of_whole_rows(operands: Operands) -> tuple[Any, Any, Aux | None]:
    """Loss, gradient (None if it is not wanted), and side outputs (None without any), lazily."""
    rows, every, settings = operands.row_axes, operands.all_axes, operands.settings
    denominator = denominator_of(operands)
    results = blockwise(
        functools.partial(result_of_block, settings=settings),
        rows,
        *(operands.logits, every),
        *(operands.target, rows if operands.hard else every),
        *argument(operands.sample_weight, rows),
        *argument(operands.grad_output, rows),
        *argument(denominator, ()),
        *(ArraySliceDep(operands.row_chunks), rows),
        dtype=object,
    )

    def of_classes(name: str, dtype: Any) -> Any:
        take = functools.partial(taken, name=name)
        classes = {operands.axis: operands.logits.chunks[operands.axis]}
        return blockwise(take, every, *(results, rows), dtype=dtype, new_axes=classes)

    stored, loss = operands.precision.storage, reduced(results, operands, denominator)
    grad = of_classes("grad", stored) if settings.wants_grad else None
    if not operands.asked:
        return loss, grad, None
    side = asides_of(results, operands)
    if "target_grad" in operands.asked:
        given = operands.target.dtype
        side["target_grad"] = of_classes("target_grad", stored if given.kind == "b" else given)
    return loss, grad, Aux(**side)
