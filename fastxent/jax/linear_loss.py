"""The loss behind a linear layer with its derivatives.

One number: the tangent is a dot with the gradients of the one pass, as in fastxent.jax.loss. A
loss each row has no gradients of one pass: its rows' upstream gradients have to be known first.
There the pass runs again in reverse mode, and forward mode is refused by JAX.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from fastxent.jax import formula
from fastxent.jax.linear_operands import NOTHING, LinearOperands, LinearOptions, LinearWants
from fastxent.jax.linear_pass import call_linear
from fastxent.jax.loss import moves
from fastxent.jax.operands import Operands

__all__ = ["linear_loss"]


def linear_loss(options: LinearOptions, operands: LinearOperands) -> Any:
    """Loss of a call, without a gradient until somebody differentiates."""
    return (_of_rows if options.loss.reduction == "none" else _one)(options, operands)


def _plain(options: LinearOptions, operands: LinearOperands) -> Any:
    """What a pass gives, from operations that JAX can differentiate any number of times."""
    hidden, matrix, target, bias, *factors = operands
    logits = hidden.astype(options.compute) @ matrix.astype(options.compute).T
    if bias is not None:
        logits = logits + bias.astype(options.compute)
    return formula.loss(options.loss, Operands(logits, target, *factors))


def _plain_grads(
    options: LinearOptions, wants: LinearWants, operands: LinearOperands, upstream: Any
) -> tuple[Any, ...]:
    names = [name for name, wanted in wants._asdict().items() if wanted]

    def of(*arrays: Any) -> Any:
        value = _plain(options, operands._replace(**dict(zip(names, arrays, strict=True))))
        return jnp.sum(value if upstream is None else value * upstream), value

    given = [getattr(operands, name) for name in names]
    grads, value = jax.grad(of, tuple(range(len(names))), has_aux=True)(*given)
    return value, *grads


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _pass(
    options: LinearOptions, wants: LinearWants, operands: LinearOperands, upstream: Any
) -> tuple[Any, ...]:
    return call_linear(options, wants, operands, upstream)


def _pass_jvp(options: LinearOptions, wants: LinearWants, primals: Any, tangents: Any) -> Any:
    _, tangent = jax.jvp(functools.partial(_plain_grads, options, wants), primals, tangents)
    return _pass(options, wants, *primals), tangent


_pass.defjvp(_pass_jvp)


def _split(moved: list[str]) -> tuple[LinearWants, list[str], list[str]]:
    """What the pass shall give of the arrays that vary, and the others: factors."""
    names = [name for name in LinearWants._fields if name in moved]
    wants = LinearWants(**dict.fromkeys(names, True))
    return wants, names, [name for name in moved if name not in names]


def _of_factors(options: LinearOptions, operands: LinearOperands, names: list[str]) -> Any:
    def of(*given: Any) -> Any:
        return _plain(options, operands._replace(**dict(zip(names, given, strict=True))))

    return of, tuple(getattr(operands, name) for name in names)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _one(options: LinearOptions, operands: LinearOperands) -> Any:
    return call_linear(options, NOTHING, operands)[0]


def _one_jvp(options: LinearOptions, primals: Any, tangents: Any) -> tuple[Any, Any]:
    (operands,), (dots,) = primals, tangents
    moved = [name for name, dot in zip(operands._fields, dots, strict=True) if moves(dot)]
    wants, names, factors = _split(moved)
    if names:
        value, *grads = _pass(options, wants, operands, None)
    else:
        value, grads = _one(options, operands), []
    tangent = jnp.zeros_like(value)
    for name, grad in zip(names, grads, strict=True):
        wide = grad.astype(value.dtype) * getattr(dots, name).astype(value.dtype)
        tangent = tangent + jnp.sum(wide)
    if factors:
        of, given = _of_factors(options, operands, factors)
        tangent = tangent + jax.jvp(of, given, tuple(getattr(dots, name) for name in factors))[1]
    return value, tangent


_one.defjvp(_one_jvp, symbolic_zeros=True)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _of_rows(options: LinearOptions, operands: LinearOperands) -> Any:
    return call_linear(options, NOTHING, operands)[0]


def _of_rows_forward(options: LinearOptions, operands: LinearOperands) -> Any:
    moved = [
        name
        for name, x in zip(operands._fields, operands, strict=True)
        if x is not None and x.perturbed
    ]
    given = LinearOperands(*(None if x is None else x.value for x in operands))
    # names are kept as keys: they are no arrays, which is what may be kept besides
    return _of_rows(options, given), (given, dict.fromkeys(moved))


def _of_rows_backward(options: LinearOptions, kept: Any, upstream: Any) -> tuple[LinearOperands]:
    operands, moved = kept
    grads: dict[str, Any] = dict.fromkeys(operands._fields)
    if moves(upstream):
        wants, names, factors = _split(list(moved))
        if names:
            grads |= zip(names, _pass(options, wants, operands, upstream)[1:], strict=True)
        if factors:
            of, given = _of_factors(options, operands, factors)
            grads |= zip(factors, jax.vjp(of, *given)[1](upstream), strict=True)
    return (LinearOperands(**grads),)


_of_rows.defvjp(_of_rows_forward, _of_rows_backward, symbolic_zeros=True)
