"""From the sums of rows to their results, in float64, many rows at a time.

The logarithm and two divisions take as long for one row as for eight. The C++ twin is
src_cython/finish.hpp.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from fastxent.backends.numba_cpu.arithmetic import like, maximum, where_nonzero
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
    at_label: Any  # z there,
    exp_at_label: Any  # its exp(z - m)
    mass_at_label: Any  # and what mass it has besides the spike


class RowResults(NamedTuple):
    """Of each row, lane by lane."""

    loss: Any
    log_sum: Any
    share: Any
    grad_at_label: Any
    log_prob: Any  # of the label; of a target without one sum t * (z - L)


@inlined
def finish(p: Any, row: RowNumbers) -> RowResults:
    """loss = T * log s - sum t * (z - m) + z_loss * L^2 with L = m + log s.

    The gradient at the label is computed here, in double: p - 1 cancels.
    """
    log_sum = log_of_sum(row.sum)
    loss, mass = row.mass * log_sum - row.dot, row.mass
    at_label = row.at_label - row.max
    loss = where_nonzero(row.spike, loss - row.spike * at_label, loss)
    log_prob = at_label - log_sum if p.labels != 0 else like(loss, 0.0) - loss
    if p.z_loss != 0.0:
        lse = row.max + log_sum
        z_loss = like(loss, p.z_loss) * lse
        loss = loss + z_loss * lse
        mass = mass + (z_loss + z_loss)
    share = mass / row.sum
    grad_at_label = row.scale * (share * row.exp_at_label - (row.spike + row.mass_at_label))
    if p.softcap != 0.0:
        there = row.at_label * like(loss, 1.0 / p.softcap)
        grad_at_label = grad_at_label * maximum(like(loss, 1.0) - there * there, like(loss, 0.0))
    return RowResults(loss, log_sum, share, grad_at_label, log_prob)
