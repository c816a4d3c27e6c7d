"""Gradient of some of the classes from the statistics of whole rows, in plain `jax.numpy`.

problem.py has the formula. The statistics are those of all classes: each row's largest z, its sum
of exp(z - that), and the total mass of its target.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import lax

from fastxent.jax.operands import LossOptions

__all__ = ["label_mass", "mass_of", "some_grad", "total_mass", "transformed"]


def transformed(options: LossOptions, x: Any) -> Any:
    """z of the logits."""
    z = x if options.logit_scale == 1.0 else options.logit_scale * x
    if options.softcap is None:
        return z
    return jnp.where(jnp.isneginf(x), -jnp.inf, options.softcap * jnp.tanh(z / options.softcap))


def label_mass(options: LossOptions, target: Any, weight: Any, dtype: Any) -> Any:
    """Mass on the label itself of each row."""
    mass = jnp.full(target.shape, 1.0 - options.label_smoothing, dtype)
    if weight is None:
        return mass
    return mass * jnp.take(weight, target, mode="clip")


def mass_of(
    options: LossOptions, target: Any, weight: Any, first: Any, z: Any, num_classes: int
) -> Any:
    """Mass of the target on each of the classes of z, from number `first` on.

    `target` is whole where it holds class indices, `weight` always; probabilities are those of
    these classes. A class from `num_classes` on is padding, and has none.
    """
    axis = options.axis
    size = z.shape[axis]
    places = first + lax.broadcasted_iota(jnp.int32, z.shape, z.ndim + axis)
    if target.ndim < z.ndim:
        own = target.astype(jnp.int32) if target.dtype.itemsize < 4 else target
        mass = (jnp.expand_dims(own, axis) == places.astype(own.dtype)).astype(z.dtype)
    else:
        mass = target.astype(z.dtype)
    smoothing = options.label_smoothing
    if smoothing:
        mass = (1.0 - smoothing) * mass + smoothing / num_classes
    if weight is not None:
        of_class = jnp.take(weight, first + jnp.arange(size), mode="fill", fill_value=0)
        mass = mass * jnp.reshape(of_class, (size,) + (1,) * options.trailing)
    return jnp.where(places < num_classes, mass, 0)


def total_mass(options: LossOptions, target: Any, weight: Any, hard: bool, compute: Any) -> Any:
    """Mass of each row, with all classes at hand."""
    if hard:
        own = label_mass(options, target, weight, compute)
        if options.label_smoothing:
            own += options.label_smoothing * (1.0 if weight is None else jnp.mean(weight))
        return own
    wide = target.astype(compute)
    mass = mass_of(options, target, weight, 0, wide, target.shape[options.axis])
    return jnp.sum(mass, axis=options.axis)


def some_grad(
    options: LossOptions, z: Any, mass: Any, row_max: Any, row_sum: Any, total: Any
) -> Any:
    """Gradient of the rows' own losses with respect to the logits behind z.

    `row_max`, `row_sum` and `total` have one number a row.
    """
    axis = options.axis
    factor = total
    if options.z_loss:
        factor = total + 2 * options.z_loss * (row_max + jnp.log(row_sum))
    shift, factor = jnp.expand_dims(row_max, axis), jnp.expand_dims(factor / row_sum, axis)
    grad = factor * jnp.exp(z - shift) - mass
    if options.softcap is not None:
        grad = grad * jnp.where(jnp.isneginf(z), 0, 1 - (z / options.softcap) ** 2)
    return grad if options.logit_scale == 1.0 else options.logit_scale * grad
