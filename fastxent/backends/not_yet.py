"""What compiled kernels refuse so far: everything but plain rows with the first options."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastxent.precision import HALF_KINDS, Array

if TYPE_CHECKING:
    from fastxent.problem import Problem

__all__ = ["not_yet"]


def _are_plain(rows: Array | None) -> bool:
    """Whether they are (N, C) with unit class stride, whole elements a row, and aligned."""
    if rows is None or not rows.size:
        return True
    size = rows.itemsize
    return (
        rows.ndim == 2
        and rows.flags.aligned
        and (rows.shape[1] <= 1 or rows.strides[1] == size)
        and (rows.shape[0] <= 1 or rows.strides[0] % size == 0)
    )


def not_yet(problem: Problem | None) -> str | None:
    """Why kernels for plain rows cannot do a problem; None if they can."""
    if problem is None:
        return None
    for kind in (problem.precision.kind, problem.soft_kind):
        if kind in HALF_KINDS:
            return f"it has no kernels for {kind}"
    if not all(map(_are_plain, (problem.logits, problem.soft, problem.out))):
        return "it has no kernels for arrays whose classes are not contiguous"
    if problem.softcap is not None or problem.logit_scale != 1.0 or problem.z_loss != 0.0:
        return "it has no kernels for softcap, logit_scale and z_loss"
    if problem.aux:
        return f"it has no kernels that give {', '.join(problem.aux)}"
    return None
