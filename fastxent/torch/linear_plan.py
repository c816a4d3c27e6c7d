"""How many rows a call takes at a time: what it holds, by `fastxent.linear.plan`."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fastxent.checks.torch_linear import check_chunk_rows
from fastxent.linear.plan import ChunkPlan, ChunkSizes, plan_blocks, plan_chunks
from fastxent.torch.linear_arguments import Chunking, LinearArguments, Wants
from fastxent.torch.linear_options import rows_asked_for
from fastxent.torch.linear_products import reads_in_place

__all__ = ["LinearPlan", "planned"]

# Objects of Python, and what PyTorch's operators hold whatever the sizes.
_SLACK = 1 << 16

# Bytes for a loss of a chunk: its statistics, its label, and its place among all.
_ROW = 96

# Bytes for what a second pass needs of every loss.
_STATISTICS = 24

# Sums of the weights' gradient are kept for all classes where that many of them fit.
_SUMS_SHARE = 2


@dataclass(frozen=True, slots=True)
class LinearPlan:
    """How a call goes through its rows.

    Attributes
    ----------
    rows : int
        Rows of a chunk.
    block : int
        Classes of a temporary block.
    first_rows : int
        Rows whose logits lie in the memory of the weights' gradient; 0 for none.
    has_skipped : bool
        Whether rows with ignored labels have to be looked for.
    has_weight_sums : bool
        Whether the gradient of the weights is added up in memory of the call.
    by_class : ChunkPlan or None
        Blocks of classes and chunks of rows of a second pass, for the gradient of the weights.
    """

    rows: int
    block: int
    first_rows: int
    has_skipped: bool
    has_weight_sums: bool
    by_class: ChunkPlan | None


@dataclass(frozen=True, slots=True)
class _Held:
    """What a call holds beside the logits of a chunk."""

    arguments: LinearArguments
    chunking: Chunking
    wants: Wants
    has_target_grad: bool
    has_skipped: bool

    @property
    def is_narrow(self) -> bool:
        """Whether the weights are read by way of widened blocks."""
        matrix = self.arguments.linear_weight.reshape(self.arguments.width, -1)
        return not reads_in_place(matrix, self.arguments.dtype)

    @property
    def copies_input(self) -> bool:
        """Whether the products need hidden vectors of their own."""
        return self.has_skipped or self.arguments.input.dtype is not self.arguments.dtype

    def sizes(self, weight_sums: int = 0) -> ChunkSizes:
        """Bytes; `weight_sums` of them for the gradient of the weights."""
        arguments, wants = self.arguments, self.wants
        item = arguments.dtype.itemsize
        row = arguments.input.shape[1] * item
        is_filtered = self.chunking.grad_filter > 0 and wants.through_logits
        is_rounded = arguments.input.dtype is not arguments.dtype and wants.input
        per_row = _ROW * arguments.positions + row * (self.copies_input + is_rounded)
        per_class = row * (2 * self.is_narrow + wants.linear_weight + 2 * is_filtered)
        return ChunkSizes(
            fixed=_SLACK + weight_sums + self._of_rows() + self._of_classes(),
            per_row=per_row + self._of_probabilities(),
            per_class=per_class,
            per_pair=item if is_filtered else 0,
        )

    def sizes_by_class(self) -> ChunkSizes:
        """Bytes of the pass that takes blocks of classes first."""
        arguments = self.arguments
        item = arguments.dtype.itemsize
        row = arguments.input.shape[1] * item
        soft = item if arguments.target.is_floating_point() else 0
        capped = 2 * item
        return ChunkSizes(
            fixed=_SLACK + self.statistics() + self._of_rows() + self._of_classes(),
            per_row=2 * _ROW * arguments.positions + row * self.copies_input,
            per_class=row * (4 + 2 * (self.chunking.grad_filter > 0)),
            per_pair=2 * item + soft + capped,
        )

    def statistics(self) -> int:
        """Bytes for what the second pass needs of the first."""
        losses: int = math.prod(self.arguments.rows_shape)
        return _STATISTICS * losses

    def _of_rows(self) -> int:
        """Bytes of what is kept of every row, apart from results: losses and their factors."""
        per_loss: int = self.arguments.dtype.itemsize + 4 * 8
        losses: int = math.prod(self.arguments.rows_shape)
        return per_loss * losses

    def _of_classes(self) -> int:
        """Bytes of what is kept of every class, apart from logits and results."""
        arguments = self.arguments
        per_logit: int = 2 * arguments.dtype.itemsize * (arguments.linear_bias is not None)
        per_class = 4 * 8 * (arguments.weight is not None)
        count: int = arguments.shape_of_row[0]
        return per_logit * arguments.width + per_class * count

    def _of_probabilities(self) -> int:
        """Bytes for a row of targets: converted ones, and their gradient before it is stored."""
        target: Tensor = self.arguments.target
        if not target.is_floating_point():
            return 0
        converted = 0 if target.itemsize > 2 else self.arguments.width * 4
        found = 2 * self.arguments.width * max(target.itemsize, 4) if self.has_target_grad else 0
        return converted + found


def planned(
    arguments: LinearArguments,
    chunking: Chunking,
    wants: Wants,
    aux: tuple[str, ...],
    has_skipped: bool,
    is_empty: bool,
) -> LinearPlan:
    """Plan a call; an error where its memory holds no row, or not those that were asked for.

    `is_empty` tells of a mean over nothing, whose gradients are not computed.
    """
    has_target_grad = wants.target or "target_grad" in aux
    held = _Held(arguments, chunking, wants, has_target_grad, has_skipped)
    plan = _chunks(held, held.sizes())
    is_rounded = arguments.linear_weight.dtype is not arguments.dtype
    has_sums, by_class = False, None
    if wants.linear_weight and is_rounded and plan.count > 1 and not is_empty:
        sums = arguments.linear_weight.numel() * arguments.dtype.itemsize
        has_sums = plan.budget >= _SUMS_SHARE * sums + held.sizes().fixed
        if has_sums:
            plan = _chunks(held, held.sizes(sums))
        else:
            sizes = held.sizes(held.statistics())
            plan = _chunks(held, sizes)
            by_class = plan_blocks(
                arguments.input.shape[0], arguments.width, plan.budget, held.sizes_by_class()
            )
    first_rows = 0
    most = min(arguments.input.shape)
    if (
        wants.linear_weight
        and not (held.is_narrow or held.copies_input or chunking.grad_filter or is_empty)
        and chunking.chunk_rows is None
        and chunking.aspect_ratio is None
        and arguments.input.is_cpu
        and not (arguments.target.is_floating_point() or arguments.target.dtype is torch.bool)
        and most >= 2 * plan.rows
    ):
        first_rows = most
    return LinearPlan(plan.rows, plan.block, first_rows, has_skipped, has_sums, by_class)


def _chunks(held: _Held, sizes: ChunkSizes) -> ChunkPlan:
    arguments, chunking = held.arguments, held.chunking
    (rows, features), width = arguments.input.shape, arguments.width
    item, budget = arguments.dtype.itemsize, chunking.memory_budget
    asked = rows_asked_for(chunking, rows, features, width)
    if asked is None:
        return plan_chunks(rows, features, width, item, budget, sizes)
    asked = max(1, asked)
    plan = plan_chunks(min(rows, asked), features, width, item, None, sizes)
    needed = sizes.fixed + asked * (width * item + sizes.per_row)
    needed += plan.block * (sizes.per_class + asked * sizes.per_pair)
    check_chunk_rows(asked, needed, budget)
    return ChunkPlan(asked, -(-rows // asked), plan.block, needed, plan.budget)
