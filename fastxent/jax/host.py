"""The same calls as Python functions of NumPy arrays: what `jax.pure_callback` runs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastxent import api
from fastxent.backends import load
from fastxent.jax.operands import LossOptions, Operands, Wants
from fastxent.precision import Array
from fastxent.problem import Problem

__all__ = ["denominator", "loss", "rows", "softmax"]


def loss(
    options: LossOptions, names: tuple[str, ...], wants: Wants, *arrays: Any
) -> tuple[Array, ...]:
    """Loss and gradients of each group of rows, one group after the other."""
    operands = [np.asarray(array) for array in arrays]
    batch = operands[0].shape[: operands[0].ndim - options.rank]
    flat = [
        operand.reshape((math.prod(batch), *operand.shape[len(batch) :])) for operand in operands
    ]
    results = [
        _one(options, wants, Operands(**dict(zip(names, of_group, strict=True))))
        for of_group in zip(*flat, strict=True)
    ]
    columns = zip(*results, strict=True)
    return tuple(np.stack(column).reshape((*batch, *column[0].shape)) for column in columns)


def _public(options: LossOptions, operands: Operands) -> dict[str, Any]:
    return {
        "weight": operands.weight,
        "ignore_index": options.ignore_index,
        "label_smoothing": options.label_smoothing,
        "reduction": options.reduction,
        "normalizer": operands.denominator,
        "sample_weight": operands.row_weight,
        "z_loss": options.z_loss,
        "softcap": options.softcap,
        "logit_scale": options.logit_scale,
        "axis": options.axis,
        "all_ignored": options.all_ignored,
        "num_threads": options.num_threads,
    }


def _one(options: LossOptions, wants: Wants, operands: Operands) -> tuple[Array, ...]:
    public = _public(options, operands)
    given = operands.logits, operands.target
    if not any(wants):
        return (np.asarray(api.cross_entropy(*given, **public)),)
    asked = ("target_grad",) * wants.target_grad + ("lse",) * wants.sums
    value, grad, *asides = api.cross_entropy_and_grad(*given, aux=asked, **public)
    results = [np.asarray(value)] + [grad] * wants.grad
    for aux in asides:
        results += [aux.target_grad] * wants.target_grad
        # a sum of exp(z - lse) is 1
        results += [aux.lse, np.ones_like(aux.lse)] * wants.sums
    return tuple(results)


def denominator(
    options: LossOptions, names: tuple[str, ...], classes: int, compute: Any, *arrays: Any
) -> tuple[Array, ...]:
    """What the mean of rows is divided by; labels and weights are checked."""
    operands = Operands(None, **dict(zip(names, map(np.asarray, arrays), strict=True)))
    target = operands.target
    stand_in = np.broadcast_to(np.zeros((), compute), (len(target), classes))
    problem = Problem.build(stand_in, target, **_public(options, operands))
    problem.with_labels(load("numpy"))
    given = np.asarray(problem.denominator, compute)
    return (given, target) if target.ndim == 1 else (given,)


def rows(matrix: Any, places: Any) -> tuple[Array]:
    """Rows of a matrix in float32; 0 for places that it does not have."""
    wide, at = np.asarray(matrix), np.asarray(places)
    inside = (at >= 0) & (at < len(wide))
    found = wide[np.where(inside, at, 0)].astype(np.float32)
    return (np.where(inside[:, None], found, np.float32(0)),)


def softmax(form: str, trailing: int, num_threads: int | None, x: Any) -> tuple[Array, ...]:
    """Softmax, its logarithm, or logsumexp, maybe with the softmax beside it."""
    given, axis = np.asarray(x), -1 - trailing
    functions = [getattr(api, name) for name in form.split(" and ")]
    return tuple(
        np.asarray(function(given, axis, num_threads=num_threads)) for function in functions
    )
