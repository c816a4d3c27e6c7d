"""The loss in plain `jax.numpy`: for derivatives that no kernel computes.

Of second and higher order, and with respect to weights and the normalizer. problem.py has the
formula; here JAX differentiates it.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fastxent.jax.operands import LossOptions, Operands, Wants
from fastxent.precision import precision_of

__all__ = ["loss", "loss_and_grads"]


def loss(options: LossOptions, operands: Operands) -> Any:
    """What a pass gives, from operations that JAX can differentiate any number of times."""
    logits, target, weight, row_weight, denominator = operands
    axis = options.axis
    precision = precision_of(np.dtype(logits.dtype))
    assert precision is not None  # the door has looked
    compute = precision.compute
    hard = target.ndim < logits.ndim
    counted = jnp.ones(target.shape, bool) if hard else None
    if hard and options.ignore_index is not None:
        counted = target != options.ignore_index
        # before anything is computed: a NaN in an ignored row would spread through its derivative
        logits = jnp.where(jnp.expand_dims(counted, axis), logits, 0)

    sound = _nan_unless_sound(options, operands, counted).astype(compute)
    # of what is differentiated too: XLA skips products with a 0 of the labels
    weight, row_weight, denominator = (
        None if factor is None else factor * sound for factor in (weight, row_weight, denominator)
    )
    z = _transformed(options, logits.astype(compute) * sound)
    mass, label_mass = _masses(options, target, weight, counted, z)
    lse = jax.nn.logsumexp(z, axis=axis, keepdims=True)
    nothing = jnp.isneginf(z) & (mass == 0)
    rows = -jnp.sum(mass * jnp.where(nothing, 0, z - lse), axis=axis)
    lse = jnp.squeeze(lse, axis)
    if options.z_loss:
        rows = rows + options.z_loss * lse**2
    if hard:
        rows = jnp.where(counted, rows, 0)
    if row_weight is not None:
        rows = rows * row_weight
        label_mass = label_mass * row_weight
    if options.reduction == "none":
        return rows * sound
    total = jnp.sum(rows) * sound
    if options.reduction == "sum":
        return total
    divisor = jnp.sum(label_mass) if denominator is None else denominator
    empty = divisor == 0
    mean = total / jnp.where(empty, 1, divisor)
    return sound * jnp.where(empty, 0.0 if options.all_ignored == "zero" else jnp.nan, mean)


def _nan_unless_sound(options: LossOptions, operands: Operands, counted: Any) -> Any:
    """Factor of the loss: 1, or NaN for numbers that a pass refuses.

    XLA drops a pass whose results nobody needs, and its error with it: then derivatives are NaN.
    """
    target, sound = operands.target, jnp.array(True)
    for factor in operands[2:]:
        if factor is not None:
            sound &= jnp.all(jnp.isfinite(factor) & (factor >= 0))
    if counted is not None:
        inside, classes = target >= 0, operands.logits.shape[options.axis]
        # a dtype that ends before the classes do cannot be compared with their number
        if not isinstance(classes, int) or classes <= jnp.iinfo(target.dtype).max:
            inside &= target < classes
        sound &= jnp.all(inside | ~counted)
    return jnp.where(sound, 1.0, jnp.nan)


def _transformed(options: LossOptions, x: Any) -> Any:
    if options.softcap is None:
        return x if options.logit_scale == 1.0 else options.logit_scale * x
    masked = jnp.isneginf(x)
    # a constant in both branches: the derivative of a masked class is 0, as that of tanh far out
    capped = options.softcap * jnp.tanh(
        options.logit_scale * jnp.where(masked, 0, x) / options.softcap
    )
    return jnp.where(masked, -jnp.inf, capped)


def _masses(
    options: LossOptions, target: Any, weight: Any, counted: Any, z: Any
) -> tuple[Any, Any]:
    """Mass of each class, and what each row counts in the mean's denominator."""
    axis, classes = options.axis, z.shape[options.axis]
    share = jnp.ones(classes, z.dtype) if weight is None else weight
    share = jnp.reshape(share, (classes,) + (1,) * options.trailing)
    soft = target.astype(z.dtype)
    if counted is not None:
        # the numbers of the classes would wrap around in a dtype that cannot hold them
        label = target.astype(jnp.int32) if target.dtype.itemsize < 4 else target
        soft = jax.nn.one_hot(label, classes, axis=axis, dtype=z.dtype)
        label_mass = jnp.where(counted, jnp.sum(soft * share, axis=axis), 0)
    else:
        label_mass = jnp.ones(jnp.sum(soft, axis=axis).shape, z.dtype)
    smoothing = options.label_smoothing
    if smoothing:
        soft = (1.0 - smoothing) * soft + smoothing / classes
    return soft * share, label_mass


def loss_and_grads(options: LossOptions, wants: Wants, operands: Operands) -> tuple[Any, ...]:
    """Loss and the gradients that are wanted, as a pass with these gives them."""

    def total(logits: Any, target: Any) -> tuple[Any, Any]:
        value = loss(options, operands._replace(logits=logits, target=target))
        return jnp.sum(value), value

    places = tuple(place for place, wanted in enumerate(wants) if wanted)
    grads, value = jax.grad(total, places, has_aux=True)(operands.logits, operands.target)
    return value, *grads
