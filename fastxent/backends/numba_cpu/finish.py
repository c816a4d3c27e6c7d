"""From the sums of rows to their results, in float64, many rows at a time.

The logarithm and two divisions take as long for one row as for eight. The C++ twin is
src_cython/finish.hpp.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from fastxent.backends.numba_cpu.arithmetic import where_nonzero
from fastxent.backends.numba_cpu.elementary import log_of_sum
from fastxent.backends.numba_cpu.jit import inlined

__all__ = ["RowNumbers", "RowResults", "finish"]


class RowNumbers(NamedTuple):
    """Of each row, lane by lane."""

    max: Any  # m
    sum: Any  # s
    mass: Any  # sum t
    dot: Any  # sum t * (z - m), without the label's
    spike: Any  # the label's mass
    scale: Any  # the gradient's factor
    at_label: Any  # the logit there,
    exp_at_label: Any  # its exp(z - m)
    mass_at_label: Any  # and what mass it has besides the spike


class RowResults(NamedTuple):
    """Of each row, lane by lane."""

    loss: Any
    log_sum: Any
    share: Any
    grad_at_label: Any


@inlined
def finish(row: RowNumbers) -> RowResults:
    """loss = T * log s - sum t * (z - m).

    The gradient at the label is computed here, in double: p - 1 cancels.
    """
    log_sum = log_of_sum(row.sum)
    share = row.mass / row.sum
    loss = row.mass * log_sum - row.dot
    loss = where_nonzero(row.spike, loss - row.spike * (row.at_label - row.max), loss)
    grad_at_label = row.scale * (share * row.exp_at_label - (row.spike + row.mass_at_label))
    return RowResults(loss, log_sum, share, grad_at_label)
