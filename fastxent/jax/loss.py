"""The loss with its derivatives: the tangent is a dot with the gradient of the fused pass.

Reverse mode transposes that dot: the gradient leaves the kernel with its final scale, and is
multiplied by a cotangent that XLA knows to be 1 under `jax.value_and_grad`.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from fastxent.jax import formula
from fastxent.jax.handlers import call_loss
from fastxent.jax.operands import LossOptions, Operands, Wants

__all__ = ["loss", "moves"]


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def loss(options: LossOptions, operands: Operands) -> Any:
    """Loss of a call, without a gradient until somebody differentiates."""
    return call_loss(options, operands)[0]


def _loss_jvp(options: LossOptions, primals: Any, tangents: Any) -> tuple[Any, Any]:
    (operands,), (dots,) = primals, tangents
    moved = [name for name, dot in zip(Operands._fields, dots, strict=True) if moves(dot)]
    wants = Wants("logits" in moved, "target" in moved)
    if any(wants):
        value, *grads = _loss_and_grads(options, wants, operands)
    else:
        value, grads = loss(options, operands), []
    names = [name for name in ("logits", "target") if name in moved]
    tangent = jnp.zeros_like(value)
    for name, grad in zip(names, grads, strict=True):
        tangent = tangent + _dot(options, grad, getattr(dots, name), value.dtype)
    factors = [name for name in moved if name not in names]
    if factors:

        def of_factors(*given: Any) -> Any:
            return formula.loss(
                options, operands._replace(**dict(zip(factors, given, strict=True)))
            )

        _, extra = jax.jvp(
            of_factors,
            tuple(getattr(operands, name) for name in factors),
            tuple(getattr(dots, name) for name in factors),
        )
        tangent = tangent + extra
    return value, tangent


loss.defjvp(_loss_jvp, symbolic_zeros=True)


def moves(dot: Any) -> bool:
    """Whether a tangent or cotangent is there and not known to be 0."""
    return dot is not None and not isinstance(dot, SymbolicZero)


def _dot(options: LossOptions, grad: Any, dot: Any, dtype: Any) -> Any:
    rows = jnp.sum(grad.astype(dtype) * dot.astype(dtype), axis=options.axis)
    return rows if options.reduction == "none" else jnp.sum(rows)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _loss_and_grads(options: LossOptions, wants: Wants, operands: Operands) -> tuple[Any, ...]:
    return tuple(call_loss(options, operands, wants))


def _loss_and_grads_jvp(
    options: LossOptions, wants: Wants, primals: Any, tangents: Any
) -> tuple[Any, Any]:
    derivative = functools.partial(formula.loss_and_grads, options, wants)
    _, tangent = jax.jvp(derivative, primals, tangents)
    return _loss_and_grads(options, wants, *primals), tangent


_loss_and_grads.defjvp(_loss_and_grads_jvp)
