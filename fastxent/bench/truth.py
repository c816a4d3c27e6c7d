"""What the reference makes of a workload: on some rows, and on all, a block after the other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from fastxent import reference
from fastxent.bench.workloads import Workload, arrays, options_of
from fastxent.precision import Array

__all__ = ["asides", "of_all_rows", "of_rows"]

BLOCK_ELEMENTS = 1 << 15  # the reference's float64 arrays stay in cache

# Where the rows of the gradient do not add up to 0.
OPTIONS_WITH_SUMS = ("z_loss", "softcap")


def of_rows(workload: Workload, rows: Array | slice, dtype: Any) -> tuple[float, Array]:
    """Give what some rows add to the loss, and their gradient or softmax.

    Parameters
    ----------
    workload : Workload
    rows : array of int, or slice
    dtype : dtype
        To compute in.

    Returns
    -------
    loss : float
        NaN where there is no loss.
    output : array of shape (rows, classes)
    """
    logits, target = _rows_of(workload)
    return _of_block(workload, logits[rows], target[rows], _denominator(workload), dtype)


def of_all_rows(workload: Workload) -> tuple[float | None, Array | float | None]:
    """Give the loss, and the sums of the rows of the output; None where there is none."""
    if workload.operation == "softmax":
        return None, 1.0
    logits, target = _rows_of(workload)
    denominator = _denominator(workload)
    loss, sums = 0.0, []
    for block in _blocks(workload):
        added, output = _of_block(workload, logits[block], target[block], denominator, np.float64)
        loss += added
        sums.append(output.sum(axis=1))
    if workload.operation == "log_softmax":
        return None, np.concatenate(sums)
    if workload.operation == "binary":
        return loss, None
    return loss, np.concatenate(sums) if workload.option in OPTIONS_WITH_SUMS else 0.0


def asides(workload: Workload, rows: Array) -> dict[str, Array]:
    """Give what the option of a workload asks for besides, for some rows."""
    if workload.option == "lse":
        return {"lse": reference.logsumexp(_rows_of(workload)[0][rows])}
    if workload.option == "argmax":
        return {"argmax": _rows_of(workload)[0][rows].argmax(axis=1)}
    return {}


def _rows_of(workload: Workload) -> tuple[Array, Array]:
    """Logits as rows of classes, and the target for each."""
    logits, target = arrays(workload)
    if workload.reads_target:
        return workload.as_rows(logits), workload.as_rows(target)
    return workload.as_rows(logits), target.reshape(-1)


def _blocks(workload: Workload) -> Iterator[slice]:
    step = max(1, BLOCK_ELEMENTS // workload.classes)
    return (slice(begin, begin + step) for begin in range(0, workload.rows, step))


def _denominator(workload: Workload) -> float:
    """What the mean divides by."""
    options, target = options_of(workload), arrays(workload).target
    if "ignore_index" in options:
        return float((target != options["ignore_index"]).sum())
    if "weight" in options:
        return float(options["weight"][target].sum(dtype=np.float64))
    return float(workload.rows)


def _of_block(
    workload: Workload, logits: Array, target: Array, denominator: float, dtype: Any
) -> tuple[float, Array]:
    if workload.operation == "binary":
        binary = reference.binary_cross_entropy_with_logits_and_grad
        loss, grad = binary(logits, target, reduction="sum", dtype=dtype)
        return float(loss) / denominator, grad / denominator
    if not workload.has_loss:
        function = reference.softmax if workload.operation == "softmax" else reference.log_softmax
        return float("nan"), function(logits, dtype=dtype)
    options = {k: v for k, v in options_of(workload).items() if k != "aux"}
    loss, grad = reference.cross_entropy_and_grad(
        logits, target, normalizer=denominator, dtype=dtype, **options
    )
    return float(loss), grad
