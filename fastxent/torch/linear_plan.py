"""How many rows a call takes at a time: what it holds, by `fastxent.linear.plan`."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from fastxent.checks.torch_linear import check_chunk_rows
from fastxent.linear.plan import ChunkPlan, ChunkSizes, plan_chunks
from fastxent.torch.linear_arguments import Chunking, LinearArguments, Wants
from fastxent.torch.linear_options import rows_asked_for
from fastxent.torch.linear_products import reads_in_place

__all__ = ["planned"]


def planned(
    arguments: LinearArguments, chunking: Chunking, wants: Wants, aux: tuple[str, ...]
) -> ChunkPlan:
    """Plan a call; an error where its memory holds no row, or not those that were asked for."""
    sizes = _sizes(arguments, chunking, wants, aux)
    (rows, features), width = arguments.input.shape, arguments.width
    itemsize = arguments.dtype.itemsize
    asked = rows_asked_for(chunking, rows, features, width)
    if asked is None:
        return plan_chunks(rows, features, width, itemsize, chunking.memory_budget, sizes)
    asked = max(1, asked)
    plan = plan_chunks(min(rows, asked), features, width, itemsize, None, sizes)
    block = min(plan.block, width)
    needed = sizes.fixed + asked * (width * itemsize + sizes.per_row)
    needed += block * (sizes.per_class + asked * sizes.per_pair)
    check_chunk_rows(asked, needed, chunking.memory_budget)
    return replace(plan, rows=asked, count=-(-rows // asked), block=block, size=needed)


def _sizes(
    arguments: LinearArguments, chunking: Chunking, wants: Wants, aux: tuple[str, ...]
) -> ChunkSizes:
    """Bytes that a call holds beside the logits of a chunk."""
    dtype, (rows, features) = arguments.dtype, arguments.input.shape
    width, itemsize = arguments.width, arguments.dtype.itemsize
    positions = width // arguments.shape_of_row[0]
    flat = arguments.linear_weight.reshape(width, features)
    is_narrow = not reads_in_place(flat, dtype)
    adds_narrow = wants.linear_weight and arguments.linear_weight.dtype is not dtype
    # losses, factors, and statistics of rows
    fixed = rows * positions * (itemsize + 8 + (20 if adds_narrow else 0))
    factors = [arguments.linear_bias, arguments.weight]
    fixed += sum(3 * 8 * one.numel() for one in factors if one is not None)
    per_row = per_class = per_pair = 0
    if arguments.input.dtype is not dtype:
        per_row += features * itemsize * (2 if wants.input else 1)
    per_row += _of_probabilities(arguments, wants, aux)
    if is_narrow:
        per_class += features * (itemsize + arguments.linear_weight.itemsize)
    if adds_narrow:
        per_class += features * itemsize
    if adds_narrow or (chunking.grad_filter and wants.through_logits):
        per_class += features * itemsize
        per_pair += itemsize
    return ChunkSizes(fixed, per_row, per_class, per_pair)


def _of_probabilities(arguments: LinearArguments, wants: Wants, aux: tuple[str, ...]) -> int:
    """Bytes for the targets of a row: converted ones, and their gradient before it is stored."""
    target: Tensor = arguments.target
    if not target.is_floating_point():
        return 0
    width = arguments.width
    converted = 0 if target.itemsize > 2 else width * 4
    has_grad = wants.target or "target_grad" in aux
    return converted + (2 * width * max(target.itemsize, 4) if has_grad else 0)
