"""Options and weights of a call, checked as far as they are known when a function is traced."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from fastxent import checks
from fastxent.jax.operands import LossOptions
from fastxent.jax.reading import checked_threads, fixed, stand_in
from fastxent.mass import representable
from fastxent.options import Options
from fastxent.precision import Array, precision_of
from fastxent.reduction import REDUCTIONS, WHEN_ALL_IGNORED

__all__ = ["Arguments", "checked"]


class Arguments(NamedTuple):
    """What is known of a call.

    Attributes
    ----------
    options : LossOptions
    hard : bool
        Whether the target holds class indices.
    weight, row_weight, denominator : array of the compute dtype, or None
    """

    options: LossOptions
    hard: bool
    weight: Any
    row_weight: Any
    denominator: Any


def checked(
    given: Options, logits: Array, axis: int, target: Any, num_classes: int, num_threads: Any
) -> Arguments:
    """Check everything but logits and axis.

    `logits` stands in for them, `num_classes` says how many there are in all; `target` is an array
    of JAX.
    """
    precision = precision_of(logits.dtype)
    assert precision is not None  # check_logits has passed
    compute = precision.compute
    _, hard = checks.check_target(stand_in(target), logits, axis)
    skip = checks.check_ignore_index(fixed(given.ignore_index, "ignore_index"), hard)
    scale = checks.check_logit_scale(fixed(given.logit_scale, "logit_scale"), compute)
    kind = checks.check_choice(given.reduction, "reduction", REDUCTIONS)
    smoothing = fixed(given.label_smoothing, "label_smoothing")
    options = LossOptions(
        rank=logits.ndim,
        trailing=logits.ndim - 1 - axis,
        ignore_index=representable(skip, np.dtype(target.dtype)) if hard else None,
        label_smoothing=checks.check_label_smoothing(smoothing),
        reduction=kind,
        z_loss=checks.check_z_loss(fixed(given.z_loss, "z_loss")),
        softcap=checks.check_softcap(fixed(given.softcap, "softcap"), scale, compute),
        logit_scale=scale,
        all_ignored=checks.check_choice(given.all_ignored, "all_ignored", WHEN_ALL_IGNORED),
        num_threads=checked_threads(num_threads),
    )
    weight, row_weight, denominator = (
        None if x is None else jnp.asarray(x)
        for x in (given.weight, given.sample_weight, given.normalizer)
    )
    # whether their numbers are good is known, and said, when the function runs
    checks.check_weight(_shape_of(weight), num_classes, compute)
    checks.check_sample_weight(
        _shape_of(row_weight), logits.shape[:axis] + logits.shape[axis + 1 :]
    )
    checks.check_normalizer(_shape_of(denominator), kind)
    factors = (None if x is None else x.astype(compute) for x in (weight, row_weight, denominator))
    return Arguments(options, hard, *factors)


def _shape_of(x: Any) -> Any:
    return None if x is None else stand_in(x)
