"""What XLA holds at a time of a call behind a linear layer, for the plan of its chunks."""

from __future__ import annotations

import jax.numpy as jnp

from fastxent.jax.linear_operands import LinearOperands, LinearOptions, LinearWants
from fastxent.linear.plan import ChunkPlan, ChunkSizes, least_bytes, plan_chunks

__all__ = ["plan_of"]

# Numbers of a row besides its vectors: factors, flags, statistics.
_OF_ROW = 12
# What XLA needs for loops and small results.
_SMALL = 4096


def plan_of(options: LinearOptions, wants: LinearWants, operands: LinearOperands) -> ChunkPlan:
    """Rows and classes of a block, such that temporaries keep to the memory budget."""
    hidden, matrix, target = operands[:3]
    if options.loss.reduction == "none" and not any(wants):
        # so that a budget that holds the loss holds the pass of reverse mode as well
        wants = LinearWants(True, True, target.ndim == 2)
    size = options.compute.itemsize
    (rows, features), classes = hidden.shape, matrix.shape[0]
    soft = target.dtype.itemsize * classes if target.ndim == 2 else 0
    narrow = matrix.dtype != options.compute
    fixed = _SMALL + _OF_ROW * size * rows + 4 * size * classes
    if options.moved:
        copies = rows * (features * hidden.dtype.itemsize + soft)
        fixed += copies * (2 if wants.hidden or wants.target else 1)
    vectors = 1 + (hidden.dtype != options.compute) + wants.hidden + wants.linear_weight
    soft_rows = soft * (2 if wants.target else 1)
    if target.dtype == jnp.bfloat16:
        soft_rows += classes * size
    per_row = vectors * features * size + soft_rows
    blocks = wants.linear_weight + 2 * narrow
    if options.grad_filter:
        blocks = 2
        fixed += 16 * classes
    sizes = ChunkSizes(
        fixed=fixed,
        per_row=per_row,
        per_class=(blocks * features + 1) * size,
        per_pair=(2 if narrow else bool(blocks)) * size,
    )
    plan = plan_chunks(rows, features, classes, size, options.memory_budget, sizes)
    if options.loss.reduction != "none" or plan.count > 1:
        return plan
    # the pass of reverse mode is one more: without loops, XLA may hold the arrays of both
    if 2 * plan.size <= plan.budget:
        return plan
    half = max(plan.budget // 2, least_bytes(classes, size, sizes))
    return plan_chunks(rows, features, classes, size, half, sizes)
