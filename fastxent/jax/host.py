"""The same calls as Python functions of NumPy arrays: what `jax.pure_callback` runs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastxent import api
from fastxent.jax.operands import LossOptions, Operands, Wants
from fastxent.precision import Array

__all__ = ["loss", "softmax"]


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


def _one(options: LossOptions, wants: Wants, operands: Operands) -> tuple[Array, ...]:
    public = {
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
    given = operands.logits, operands.target
    if not any(wants):
        return (np.asarray(api.cross_entropy(*given, **public)),)
    asked = ("target_grad",) if wants.target_grad else ()
    value, *results = api.cross_entropy_and_grad(*given, aux=asked, **public)
    results[1:] = [aux.target_grad for aux in results[1:]]
    return np.asarray(value), *(results if wants.grad else results[1:])


def softmax(form: str, trailing: int, num_threads: int | None, x: Any) -> tuple[Array, ...]:
    """Softmax, its logarithm, or logsumexp, maybe with the softmax beside it."""
    given, axis = np.asarray(x), -1 - trailing
    functions = [getattr(api, name) for name in form.split(" and ")]
    return tuple(
        np.asarray(function(given, axis, num_threads=num_threads)) for function in functions
    )
