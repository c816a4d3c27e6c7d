"""The decisions that follow from what a call holds, shared by adapters: sums, passes, threads.

Adapters tell what they hold in bytes; which way a call goes, and what it takes at least, is
decided here for all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fastxent.linear.plan import (
    DEFAULT_BUDGET,
    ChunkPlan,
    ChunkSizes,
    least_bytes,
    least_of_blocks,
    plan_blocks,
)

__all__ = [
    "SLACK",
    "STATISTICS",
    "CallSizes",
    "Decision",
    "bytes_of_row",
    "decide",
    "scratch_of_others",
]

# Bytes for objects of Python, and what libraries hold whatever the sizes.
SLACK = 1 << 16

# Bytes for a loss of a chunk: its statistics, its label, and its place among all.
_ROW = 96

# Bytes for what a second pass needs of every loss.
STATISTICS = 24

# Sums of the weights' gradient are kept for all classes where that many of them fit.
_SUMS_SHARE = 2

# So many threads of a kernel get scratch memory, of at most this part of the budget: the same on
# every machine, as the chunks, and with them the last bits of gradients, follow from it.
_THREADS = 64
_SCRATCH_SHARE = 8


@dataclass(frozen=True, slots=True)
class CallSizes:
    """What a call is, as far as memory goes.

    Attributes
    ----------
    rows, features, width, itemsize : int
        Rows of hidden vectors, their features, logits of a row, bytes of one.
    losses : int
        All that there are.
    of_pass : function of int to ChunkSizes
        What a pass over chunks of rows holds, with so many bytes more whatever the chunks.
    of_blocks : ChunkSizes
        What a pass over blocks of classes holds.
    is_narrow : bool
        Whether the weights' gradient has a dtype in which chunks cannot be added up.
    is_empty : bool
        Whether nothing counts, so that there are no gradients to compute.
    may_lie_in_grad : bool
        Whether the arrays let logits of the first rows lie in the weights' gradient.
    scratch : int
        Bytes of the kernel's own for a thread; one of them is in `of_pass` and `of_blocks`.
    scratch_of_columns : int
        The same for logits that lie class by class.
    """

    rows: int
    features: int
    width: int
    itemsize: int
    losses: int
    of_pass: Callable[[int], ChunkSizes]
    of_blocks: ChunkSizes
    is_narrow: bool
    is_empty: bool
    may_lie_in_grad: bool
    scratch: int
    scratch_of_columns: int

    @property
    def statistics(self) -> int:
        """Bytes for a second pass, where there may be one."""
        return STATISTICS * self.losses if self._may_have_passes else 0

    @property
    def least(self) -> int:
        """Bytes with which the call can be made, whichever way it goes."""
        least = least_bytes(self.width, self.itemsize, self.of_pass(self.statistics))
        return max(least, least_of_blocks(self.of_blocks)) if self._may_have_passes else least

    @property
    def _may_have_passes(self) -> bool:
        return self.is_narrow and self.rows > 1


@dataclass(frozen=True, slots=True)
class Decision:
    """Which way a call goes.

    Attributes
    ----------
    plan : ChunkPlan
    has_weight_sums : bool
        Whether the gradient of the weights is added up in memory of the call.
    by_class : ChunkPlan or None
        Blocks of classes and chunks of rows of a second pass, for the gradient of the weights.
    most_threads : int
        Threads whose scratch memory the budget holds.
    first_rows : int
        How many rows have their logits in the memory of the weights' gradient; 0 for none.
    most_threads_of_first : int
        Threads whose scratch memory the budget holds with these.
    """

    plan: ChunkPlan
    has_weight_sums: bool
    by_class: ChunkPlan | None
    most_threads: int
    first_rows: int
    most_threads_of_first: int


def decide(call: CallSizes, planned: Callable[[ChunkSizes], ChunkPlan]) -> Decision:
    """Decide, where `planned` gives the plan of a pass over chunks of rows.

    Raises
    ------
    OptionError
        The budget does not hold what the call takes at least.
    """
    # what a second pass would need is in what a call takes at least
    plan = planned(call.of_pass(call.statistics))
    has_sums, by_class = False, None
    if call.is_narrow and plan.count > 1 and not call.is_empty:
        sums = call.width * call.features * call.itemsize
        with_sums = call.of_pass(sums)
        least = least_bytes(call.width, call.itemsize, with_sums)
        has_sums = plan.budget >= least + (_SUMS_SHARE - 1) * sums
        if has_sums:
            plan = planned(with_sums)
        else:
            by_class = plan_blocks(call.rows, call.width, plan.budget, call.of_blocks)
    spare = plan.budget - plan.size + call.scratch
    limit = max(1, spare // max(1, call.scratch))
    first_rows, first_limit = min(call.rows, call.features), 0
    if call.may_lie_in_grad and not call.is_empty and first_rows >= 2 * plan.rows:
        # the logits of a chunk are not there at the same time
        spare += plan.rows * call.width * call.itemsize
        losses = call.losses // max(1, call.rows)
        spare -= (first_rows - plan.rows) * bytes_of_row(call.width, losses)
        first_limit = max(0, spare // max(1, call.scratch_of_columns))
    return Decision(
        plan=plan,
        has_weight_sums=has_sums,
        by_class=by_class,
        most_threads=limit,
        first_rows=first_rows if first_limit else 0,
        most_threads_of_first=first_limit,
    )


def bytes_of_row(width: int, losses: int = 1) -> int:
    """Bytes for a row of a chunk beside its logits, whose sums are found by blocks of them."""
    return _ROW * losses + width // 1024


def scratch_of_others(budget: int | None, of_thread: int) -> int:
    """Bytes for the other threads of a kernel, as far as they may take of the budget."""
    whole = DEFAULT_BUDGET if budget is None else budget
    return of_thread * min(_THREADS - 1, whole // _SCRATCH_SHARE // max(1, of_thread))
