"""From the sums of rows to their results, in float64, many rows at a time.

The logarithm and two divisions take as long for one row as for eight. The C++ twin is
src_cython/finish.hpp.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from fastxent.backends.numba_cpu.arithmetic import like, maximum, where_nonzero
from fastxent.backends.numba_cpu.elementary import log_of_sum
from fastxent.backends.numba_cpu.jit import inlined

__all__ = ["RowNumbers", "RowResults", "factor_of", "finish", "grad_at_label_of"]


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
def factor_of(p: Any, mass: Any, lse: Any) -> Any:
    """T + 2 * z_loss * L."""
    if p.z_loss != 0.0:
        z_loss = like(lse, p.z_loss) * lse
        return mass + (z_loss + z_loss)
    return mass


@inlined
def grad_at_label_of(
    p: Any, share: Any, scale: Any, mass: Any, exp_at_label: Any, at_label: Any
) -> Any:
    """The gradient at a label with this mass, in double: p - 1 cancels."""
    grad = scale * (share * exp_at_label - mass)
    if p.softcap != 0.0:
        there = at_label * like(grad, 1.0 / p.softcap)
        grad = grad * maximum(like(grad, 1.0) - there * there, like(grad, 0.0))
    return grad


@inlined
def finish(p: Any, row: RowNumbers) -> RowResults:
    """loss = T * log s - sum t * (z - m) + z_loss * L^2 with L = m + log s."""
    log_sum = log_of_sum(row.sum)
    loss = row.mass * log_sum - row.dot
    at_label = row.at_label - row.max
    loss = where_nonzero(row.spike, loss - row.spike * at_label, loss)
    log_prob = at_label - log_sum if p.labels != 0 else like(loss, 0.0) - loss
    lse = row.max + log_sum
    if p.z_loss != 0.0:
        loss = loss + like(loss, p.z_loss) * lse * lse
    share = factor_of(p, row.mass, lse) / row.sum
    grad_at_label = grad_at_label_of(
        p, share, row.scale, row.spike + row.mass_at_label, row.exp_at_label, row.at_label
    )
    return RowResults(loss, log_sum, share, grad_at_label, log_prob)
