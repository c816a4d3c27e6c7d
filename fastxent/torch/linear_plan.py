"""How many rows a call takes at a time: what it holds, by `fastxent.linear.plan`."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from fastxent.checks.torch_linear import check_chunk_rows
from fastxent.linear.decision import (
    SLACK,
    STATISTICS,
    CallSizes,
    bytes_of_row,
    decide,
    scratch_of_others,
)
from fastxent.linear.plan import ChunkPlan, ChunkSizes, plan_chunks
from fastxent.linear.scratch import scratch_of_columns, scratch_of_thread
from fastxent.torch.linear_arguments import Chunking, LinearArguments, Wants
from fastxent.torch.linear_options import rows_asked_for
from fastxent.torch.linear_products import reads_in_place
from fastxent.torch.on_cpu import pick
from fastxent.torch.on_cpu.loss import problem_of
from fastxent.torch.settings import Settings

__all__ = ["LinearPlan", "planned"]

# What `grad_filter` keeps of a class: the size of its entries is beside this a comparison, its
# negation and its number.
_FILTER = 2 + 8


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
    copies_input : bool
        Whether the products need hidden vectors of their own.
    has_weight_sums : bool
        Whether the gradient of the weights is added up in memory of the call.
    by_class : ChunkPlan or None
        Blocks of classes and chunks of rows of a second pass, for the gradient of the weights.
    most_threads : int or None
        Threads of the kernel whose scratch memory the budget holds; None on a GPU.
    most_threads_of_first : int
        The same with the first rows.
    """

    rows: int
    block: int
    first_rows: int
    has_skipped: bool
    copies_input: bool
    has_weight_sums: bool
    by_class: ChunkPlan | None
    most_threads: int | None
    most_threads_of_first: int


@dataclass(frozen=True, slots=True)
class _Held:
    """What a call holds beside the logits of a chunk."""

    arguments: LinearArguments
    chunking: Chunking
    wants: Wants
    has_target_grad: bool
    has_skipped: bool
    scratch: int  # of the kernel for a thread
    scratch_of_columns: int  # the same for logits that lie class by class

    @property
    def is_narrow(self) -> bool:
        """Whether the weights are read by way of widened blocks."""
        weight = self.arguments.linear_weight
        matrix = _view(weight)
        if matrix is None:  # a copy, which BLAS reads if its dtype is the one that computes
            return weight.dtype is not self.arguments.dtype
        return not reads_in_place(matrix, self.arguments.dtype)

    @property
    def copies_input(self) -> bool:
        """Whether the products need hidden vectors of their own."""
        return self.has_skipped or not reads_in_place(self.arguments.input, self.arguments.dtype)

    def sizes(self, more: int = 0) -> ChunkSizes:
        """Bytes; `more` of them, whatever the chunks."""
        arguments, wants = self.arguments, self.wants
        item = arguments.dtype.itemsize
        row = arguments.input.shape[1] * item
        is_filtered = self.chunking.grad_filter > 0 and wants.through_logits
        is_rounded = arguments.input.dtype is not arguments.dtype and wants.input
        per_row = bytes_of_row(arguments.width, arguments.positions) + row * (
            self.copies_input + is_rounded
        )
        per_class = row * (2 * self.is_narrow + wants.linear_weight + 2 * is_filtered)
        return ChunkSizes(
            fixed=self._fixed() + more,
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
        capped, copied = 2 * item, int(self.copies_input)
        return ChunkSizes(
            fixed=self._fixed() + STATISTICS * self.losses,
            # hidden vectors of a chunk are let go of when those of the next are there
            per_row=2 * (bytes_of_row(arguments.width, arguments.positions) + row * copied),
            per_class=row * (4 + 2 * (self.chunking.grad_filter > 0)),
            per_pair=2 * item + soft + capped,
        )

    def call_sizes(self, is_empty: bool) -> CallSizes:
        """What the decisions for all adapters are made from."""
        arguments, chunking, wants = self.arguments, self.chunking, self.wants
        (rows, features), dtype = arguments.input.shape, arguments.dtype
        return CallSizes(
            rows=rows,
            features=features,
            width=arguments.width,
            itemsize=dtype.itemsize,
            losses=self.losses,
            of_pass=self.sizes,
            of_blocks=self.sizes_by_class(),
            is_narrow=wants.linear_weight and arguments.linear_weight.dtype is not dtype,
            is_empty=is_empty,
            may_lie_in_grad=wants.linear_weight
            and arguments.input.is_cpu
            and not (self.is_narrow or self.copies_input or chunking.grad_filter)
            and chunking.chunk_rows is None
            and chunking.aspect_ratio is None
            and not arguments.is_soft,
            scratch=self.scratch,
            scratch_of_columns=self.scratch_of_columns,
        )

    @property
    def losses(self) -> int:
        """How many there are."""
        count: int = math.prod(self.arguments.rows_shape)
        return count

    def _fixed(self) -> int:
        """Bytes that do not depend on the chunks."""
        return SLACK + self.scratch + self._of_rows() + self._of_classes()

    def _of_rows(self) -> int:
        """Bytes of what is kept of every row, apart from results: losses and their factors."""
        per_loss: int = self.arguments.dtype.itemsize + 4 * 8
        return per_loss * self.losses

    def _of_classes(self) -> int:
        """Bytes of what is kept of every class, apart from logits and results."""
        arguments, item = self.arguments, self.arguments.dtype.itemsize
        per_logit, bias, weight = 0, arguments.linear_bias, arguments.linear_weight
        if bias is not None:
            # its sums and those of a chunk, and the bias itself in the dtype that computes
            per_logit += item * (2 * self.wants.linear_bias + (bias.dtype is not arguments.dtype))
        if self.chunking.grad_filter and self.wants.through_logits:
            per_logit += item + _FILTER
        if _view(weight) is None:
            per_logit += weight.shape[-1] * weight.itemsize
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
    settings: Settings,
    chunking: Chunking,
    wants: Wants,
    aux: tuple[str, ...],
    has_skipped: bool,
    is_empty: bool,
) -> LinearPlan:
    """Plan a call; an error where its memory holds no row, or not those that were asked for.

    `is_empty` tells of a mean over nothing, whose gradients are not computed.
    """
    held = _held(arguments, settings, chunking, wants, aux, has_skipped)
    sizes = held.call_sizes(is_empty)
    least, others = sizes.least, None
    if chunking.later:
        others = _held(arguments, settings, chunking, Wants(*chunking.later), (), has_skipped)
        of_others = others.call_sizes(is_empty)
        least = max(least, of_others.least)
        decide(of_others, lambda of_pass: _chunks(others, of_pass, least))
    found = decide(sizes, lambda of_pass: _chunks(held, of_pass, least))
    return LinearPlan(
        rows=found.plan.rows,
        block=found.plan.block,
        first_rows=found.first_rows,
        has_skipped=has_skipped,
        copies_input=held.copies_input,
        has_weight_sums=found.has_weight_sums,
        by_class=found.by_class,
        most_threads=found.most_threads if arguments.input.is_cpu else None,
        most_threads_of_first=found.most_threads_of_first,
    )


def _held(
    arguments: LinearArguments,
    settings: Settings,
    chunking: Chunking,
    wants: Wants,
    aux: tuple[str, ...],
    has_skipped: bool,
) -> _Held:
    has_target_grad = wants.target or "target_grad" in aux
    of_thread = of_columns = 0
    if arguments.input.is_cpu:
        names = {*aux, "target_grad"} if wants.target else aux
        problem = problem_of(
            *(arguments.stand_in(), arguments.target_of_shape(), None, None),
            settings._replace(reduction="none", normalizer=None),
            aux=tuple(names),
        )
        name = pick(settings.backend, problem).name
        of_columns = scratch_of_columns(name, problem)
        # several losses a row: their logits lie class by class
        of_thread = scratch_of_thread(name, problem) if arguments.positions == 1 else of_columns
    return _Held(*(arguments, chunking, wants, has_target_grad, has_skipped, of_thread, of_columns))


def _view(weight: Tensor) -> Tensor | None:
    """The weights as a matrix with a row a logit; None where that takes a copy."""
    try:
        return weight.view(math.prod(weight.shape[:-1]), weight.shape[-1])
    except RuntimeError:
        return None


def _chunks(held: _Held, sizes: ChunkSizes, least: int) -> ChunkPlan:
    arguments, chunking = held.arguments, held.chunking
    (rows, features), width = arguments.input.shape, arguments.width
    item, budget = arguments.dtype.itemsize, chunking.memory_budget
    asked = rows_asked_for(chunking, rows, features, width)
    reserve = scratch_of_others(None if budget is None else int(budget), held.scratch)
    if asked is None:
        return plan_chunks(rows, features, width, item, budget, sizes, reserve, least)
    asked = max(1, asked)
    plan = plan_chunks(min(rows, asked), features, width, item, None, sizes)
    needed = sizes.fixed + asked * (width * item + sizes.per_row)
    needed += plan.block * (sizes.per_class + asked * sizes.per_pair)
    check_chunk_rows(asked, needed, budget)
    allowed = max(plan.budget, needed + reserve) if budget is None else int(budget)
    return ChunkPlan(asked, -(-rows // asked), plan.block, needed, allowed)
