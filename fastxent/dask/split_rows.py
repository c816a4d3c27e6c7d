"""The way of logits whose classes are split into blocks: statistics of each are merged.

The logits are read once for the loss and once more for the gradient. Where blocks begin at
multiples of 1,024 classes, the statistics are kept for each 1,024, and the bits of whole rows come
out.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from dask.layers import ArraySliceDep

from fastxent.api import grad_from_stats, loss_from_stats, merge_stats, partial_stats
from fastxent.backends.contract import BLOCK
from fastxent.checks import check_sample_weight
from fastxent.checks.dask import labels_counted_from
from fastxent.dask.blocks import Result, Settings, one_entry
from fastxent.dask.graph import argument, asides_of, blockwise, denominator_of, reduced
from fastxent.dask.operands import Operands
from fastxent.precision import Array
from fastxent.sharding import ShardStats
from fastxent.side_outputs import Aux

__all__ = ["of_split_rows"]

# What the options of each step are, of those that all blocks share.
_OF_MASS = ("weight", "ignore_index", "label_smoothing", "axis")
_OF_LOGITS = ("softcap", "logit_scale")
_OF_LOSS = ("z_loss", "all_ignored")


def _chosen(settings: Settings, *groups: tuple[str, ...]) -> dict[str, Any]:
    options = {name: getattr(settings.options, name) for group in groups for name in group}
    return {**options, "backend": settings.backend, "num_threads": settings.num_threads}


def stats_of_block(
    logits: Array,
    target: Array,
    classes: tuple[slice],
    place: tuple[slice, ...],
    settings: Settings,
    num_classes: int,
    by_block: bool,
) -> ShardStats:
    """What the rows of a block hand up of its classes."""
    with labels_counted_from(target, place, num_classes, settings.options.ignore_index):
        return partial_stats(
            logits,
            target,
            class_offset=classes[0].start,
            num_classes=num_classes,
            aux=settings.options.aux,
            by_block=by_block,
            **_chosen(settings, _OF_MASS, _OF_LOGITS),
        )


def merged(blocks: list[ShardStats]) -> ShardStats:
    """Statistics of all classes of a block of rows."""
    return merge_stats(*blocks)


def result_of_rows(
    stats: ShardStats,
    target: Any,
    sample_weight: Array | None,
    settings: Settings,
    num_classes: int,
) -> Result:
    """Loss and side outputs of a block of rows."""
    options = settings.options
    labels = target[0] if isinstance(target, list) else target
    if sample_weight is not None:
        check_sample_weight(sample_weight, sample_weight.shape)
    weighs = sample_weight is not None and options.reduction == "none"
    found = loss_from_stats(
        stats,
        labels,
        num_classes=num_classes,
        reduction="none",
        sample_weight=sample_weight if weighs else None,
        z_loss=options.z_loss,
        aux=options.aux,
        **_chosen(settings, _OF_MASS),
    )
    loss, aux = found if options.aux else (found, None)
    if options.reduction == "none":
        return Result(loss, None, None, aux)
    with np.errstate(all="ignore"):
        weighted = np.asarray(loss) if sample_weight is None else loss * sample_weight
        total = float(np.sum(weighted, dtype=np.float64))
    return Result(None, one_entry(total, np.ndim(loss)), None, aux)


def grad_of_block(
    logits: Array,
    target: Array,
    stats: ShardStats,
    sample_weight: Array | None,
    grad_output: Any,
    denominator: Any,
    classes: tuple[slice],
    settings: Settings,
    num_classes: int,
) -> Array:
    """Gradient of the logits of a block."""
    reduction = settings.options.reduction
    grad: Array = grad_from_stats(
        logits,
        target,
        stats,
        class_offset=classes[0].start,
        num_classes=num_classes,
        reduction=reduction,
        normalizer=float(denominator) if reduction == "mean" else None,
        sample_weight=sample_weight,
        grad_output=grad_output,
        **_chosen(settings, _OF_MASS, _OF_LOGITS, _OF_LOSS),
    )
    return grad


def of_split_rows(operands: Operands) -> tuple[Any, Any, Aux | None]:
    """Loss, gradient (None if it is not wanted), and side outputs (None without any), lazily."""
    rows, every, settings = operands.row_axes, operands.all_axes, operands.settings
    logits, axis = operands.logits, operands.axis
    shared = {"settings": settings, "num_classes": logits.shape[axis]}
    sizes = logits.chunks[axis]
    classes = ArraySliceDep((sizes,)), (axis,)
    target = operands.target, rows if operands.hard else every
    weights = argument(operands.sample_weight, rows)
    stats = blockwise(
        functools.partial(
            stats_of_block, by_block=not any(size % BLOCK for size in sizes[:-1]), **shared
        ),
        every,
        *(logits, every),
        *target,
        *classes,
        *(ArraySliceDep(operands.row_chunks), rows),
        dtype=object,
    )
    whole = blockwise(merged, rows, *(stats, every), dtype=object)
    results = blockwise(
        functools.partial(result_of_rows, **shared),
        rows,
        *(whole, rows),
        *target,
        *weights,
        dtype=object,
    )
    denominator = denominator_of(operands)
    loss, grad = reduced(results, operands, denominator), None
    if settings.wants_grad:
        grad = blockwise(
            functools.partial(grad_of_block, **shared),
            every,
            *(logits, every),
            *target,
            *(whole, rows),
            *weights,
            *argument(operands.grad_output, rows),
            *argument(denominator, ()),
            *classes,
            dtype=operands.precision.storage,
        )
    return loss, grad, Aux(**asides_of(results, operands)) if operands.asked else None
