"""The loss over classes that devices of a mesh share, inside `jax.shard_map`.

Each device computes what its classes add to a row's maximum and sums; the maximum and the sums are
exchanged, 3 to 4 numbers a row. Sums and logarithms are float64: a float32 logsumexp is off by
5e-4 at 1e4, and the float32 sum of a row whose label has nearly all probability has lost the rest.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from fastxent.checks.jax import check_differentiable
from fastxent.jax.handlers import call_denominator, call_partial, call_partial_backward
from fastxent.jax.loss import moves
from fastxent.jax.manual_axes import gathered
from fastxent.jax.operands import LossOptions, Operands
from fastxent.jax.wide import float64

__all__ = ["ShardOptions", "shard_loss"]

_NAMES = ("local_logits", "target", "weight", "sample_weight", "normalizer")


@dataclass(frozen=True, slots=True)
class ShardOptions:
    """Options of a call, checked.

    Attributes
    ----------
    loss : LossOptions
    axis_name : str or tuple of str
    devices : int
        Along that axis.
    num_classes : int
        Classes in all; what the devices hold beyond that is padding.
    in_order : bool
        Whether sums are added up in the order of the classes.
    """

    loss: LossOptions
    axis_name: Any
    devices: int
    num_classes: int
    in_order: bool


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def shard_loss(options: ShardOptions, operands: Operands) -> Any:
    """Loss of a call, the same on every device of the axis."""
    return _forward(options, operands)[0]


def _jvp(options: ShardOptions, primals: Any, tangents: Any) -> tuple[Any, Any]:
    (operands,), (dots,) = primals, tangents
    check_differentiable([n for n, dot in zip(_NAMES[1:], dots[1:], strict=True) if moves(dot)])
    value, *statistics = _forward(options, operands)
    grad = _grad(options, operands, *statistics)
    rows = jnp.sum(grad.astype(value.dtype) * dots.logits.astype(value.dtype), options.loss.axis)
    own = rows if options.loss.reduction == "none" else jnp.sum(rows)
    return value, lax.psum(own, options.axis_name)


shard_loss.defjvp(_jvp, symbolic_zeros=True)


def _local(options: ShardOptions, operands: Operands, after: Any) -> tuple[int, float, list[Any]]:
    """Classes in all and the mass spread over them, as kernels count; first class and weights.

    `after` is a 0 that is there when all has been checked: a device that waits for the others'
    numbers while one of them has refused the call would wait for ever.
    """
    size = operands.logits.shape[options.loss.axis]
    classes, smoothing = options.devices * size, options.loss.label_smoothing
    first = lax.axis_index(options.axis_name) * size + after
    weight = operands.weight
    if classes > options.num_classes:
        # the weight of padding is 0, and what is spread is spread over the others
        ones = jnp.ones(options.num_classes, _compute(operands))
        weight = jnp.pad(ones if weight is None else weight, (0, classes - options.num_classes))
    others = [first.astype(jnp.int32)]
    if weight is not None:
        others.append(lax.dynamic_slice_in_dim(weight, first, size))
    return classes, smoothing * classes / options.num_classes, others


def _compute(operands: Operands) -> Any:
    dtype = operands.logits.dtype
    return dtype if dtype.itemsize > 2 else jnp.dtype(jnp.float32)


def _forward(options: ShardOptions, operands: Operands) -> tuple[Any, ...]:
    """The loss; and of each row max, sum, mass and the factor of its gradient."""
    of_loss, target = options.loss, operands.target
    hard, compute = target.ndim < operands.logits.ndim, _compute(operands)
    divisor, target, counted, after = _checked(options, operands)
    classes, spread, others = _local(options, operands, after)
    part = call_partial(of_loss, classes, spread, operands.logits, target, *others)
    with float64():
        # a maximum is a logit: exact in the compute dtype
        highest = lax.pmax(part["max"].astype(compute), options.axis_name)
        top = highest.astype(jnp.float64)
        # a part without anything but -inf, or NaN, has its sums relative to 0
        masked = jnp.isneginf(part["max"])
        shift = jnp.where(masked, 0.0, part["max"]) - jnp.where(jnp.isneginf(top), 0.0, top)
        lowered = jnp.where(masked, 0.0, part["sum"] * jnp.exp(shift))
        sums = {"sum": jnp.where(jnp.isnan(part["sum"]), part["sum"], lowered)}
        if "mass" in part:
            # beside a label every row that counts has the same mass: one number is sent for all
            sums["mass"] = jnp.max(part["mass"], initial=0.0) if hard else part["mass"]
            apart = jnp.where(part["mass"] == 0, 0.0, part["mass"] * shift)
            sums["dot"] = part["dot"] + apart
        if hard:
            sums["label"] = part["label_logit"]
        sums = _merged(options, sums)
        mass = sums.get("mass", jnp.zeros_like(top))
        loss = -sums.get("dot", jnp.zeros_like(top))
        if hard:
            spike = 1.0 - of_loss.label_smoothing
            if operands.weight is not None:
                own = jnp.take(operands.weight, target, mode="clip")
                spike = spike * own.astype(jnp.float64)
            spike = jnp.broadcast_to(jnp.asarray(spike, jnp.float64), top.shape)
            mass = mass + spike
            loss = loss - jnp.where(spike == 0, 0.0, spike * (sums["label"] - top))
        log_sum = jnp.log(sums["sum"])
        loss = loss + mass * log_sum
        if of_loss.z_loss:
            loss = loss + of_loss.z_loss * (top + log_sum) ** 2
        loss = jnp.where(counted, loss, 0.0)
        if operands.row_weight is not None:
            loss = loss * operands.row_weight.astype(jnp.float64)
        loss = loss if of_loss.reduction == "none" else jnp.sum(loss)
        loss = loss / divisor.astype(jnp.float64)
        if of_loss.reduction == "mean":
            nothing = 0.0 if of_loss.all_ignored == "zero" else jnp.nan
            loss = jnp.where(divisor == 0, nothing, loss)
        factor = jnp.where(counted & (divisor != 0), 1.0 / divisor.astype(jnp.float64), 0.0)
        if operands.row_weight is not None:
            factor = factor * operands.row_weight.astype(jnp.float64)
        # rows that do not count have statistics as from one class, on as many devices as there are
        total = jnp.where(counted, sums["sum"], 1.0)
        mass = jnp.broadcast_to(mass, top.shape)
        return loss.astype(compute), top, total, mass, factor


def _checked(options: ShardOptions, operands: Operands) -> tuple[Any, Any, Any, Any]:
    """The mean's denominator, the target, checked, which rows count, and a 0 after all checks.

    Every device checks all that it is given, be it of other devices' classes: all refuse a call, or
    none.
    """
    target, hard = operands.target, operands.target.ndim < operands.logits.ndim
    weight, row_weight, denominator = operands[2:]
    at = operands.logits.ndim + options.loss.axis
    shape = operands.logits.shape[:at] + operands.logits.shape[at + 1 :]
    rows = None if row_weight is None else row_weight.reshape(-1)
    # probabilities are counted by rows alone: as labels of one class would be
    labels = target.reshape(-1) if hard else jnp.zeros(math.prod(shape), jnp.int32)
    if weight is not None and not hard:
        one = Operands(None, jnp.zeros(1, jnp.int32), weight)
        of_weight = call_denominator(options.loss, one, options.num_classes, _compute(operands))
        labels = labels + of_weight[1]
    given = Operands(None, labels, weight if hard else None, rows, denominator)
    classes = options.num_classes if hard else 1
    divisor, labels = call_denominator(options.loss, given, classes, _compute(operands))
    counted, after = jnp.ones(shape, bool), 0
    if hard:
        # the labels themselves come after their check
        target = labels.reshape(shape)
        if options.loss.ignore_index is not None:
            counted = target != options.loss.ignore_index
    else:
        after = jnp.max(labels, initial=0)
    return divisor, target, counted, after


def _merged(options: ShardOptions, sums: dict[str, Any]) -> dict[str, Any]:
    """Sums over all devices."""
    if not options.in_order:
        return dict(zip(sums, lax.psum(tuple(sums.values()), options.axis_name), strict=True))
    merged = {}
    for name, value in sums.items():
        parts = gathered(value, options.axis_name, options.devices)
        merged[name] = functools.reduce(jnp.add, [parts[i] for i in range(options.devices)])
    return merged


def _grad(options: ShardOptions, operands: Operands, *statistics: Any) -> Any:
    classes, spread, (first, *weight) = _local(options, operands, 0)
    given = operands.logits, operands.target, first, *statistics, *weight
    return call_partial_backward(options.loss, classes, spread, *given)
