"""The loss behind a linear layer and its gradients, a chunk of rows of logits at a time.

A chunk's logits are computed, the kernel writes their gradient over them, and the products take it
from there. Row factors (the mean's denominator, weights of rows, the upstream gradient) enter the
products, not the gradient of the logits: N x D numbers, not N x C.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
from jax import custom_batching, lax

from fastxent.jax.blocks import each_block, is_new, put, taken, zeros
from fastxent.jax.handlers import call_denominator, call_loss
from fastxent.jax.linear_filter import FILTER_BLOCK, filtered_products, kept_classes
from fastxent.jax.linear_operands import LinearOperands, LinearOptions, LinearWants
from fastxent.jax.linear_products import (
    bias_product,
    hidden_product,
    logits_of,
    weight_product,
    widened,
)
from fastxent.jax.linear_sizes import plan_of
from fastxent.jax.operands import Operands, Wants
from fastxent.jax.shard_formula import mass_of, some_grad, total_mass, transformed
from fastxent.jax.wide import sum_in_float64

__all__ = ["call_linear"]


def call_linear(
    options: LinearOptions, wants: LinearWants, operands: LinearOperands, upstream: Any = None
) -> tuple[Any, ...]:
    """Loss, and the gradients that are wanted; `upstream` is one number a row of the loss.

    Under `jax.vmap` calls run one after the other, so that each keeps to the memory budget.
    """
    given = (*operands, upstream)
    places = [place for place, x in enumerate(given) if x is not None]

    def one(*arrays: Any) -> tuple[Any, ...]:
        whole: list[Any] = [None] * len(given)
        for place, array in zip(places, arrays, strict=True):
            whole[place] = array
        return _run(options, wants, LinearOperands(*whole[:-1]), whole[-1])

    sequential = custom_batching.sequential_vmap(one)
    result: tuple[Any, ...] = sequential(*(given[place] for place in places))
    return result


def _run(
    options: LinearOptions, wants: LinearWants, operands: LinearOperands, upstream: Any
) -> tuple[Any, ...]:
    compute, rows = options.compute, operands.hidden.shape[0]
    classes, hard = operands.linear_weight.shape[0], operands.target.ndim == 1
    plan = plan_of(options, wants, operands)
    checked = Operands(None, operands.target, *operands[4:])
    divisor, *labels = call_denominator(options.loss, checked, classes, compute)
    operands = operands._replace(target=labels[0] if hard else operands.target)
    counted = divisor != 0
    factor = jnp.where(counted, 1 / divisor, 0)
    if hard and options.loss.ignore_index is not None:
        counted = counted & (operands.target != options.loss.ignore_index)
    for one in (operands.row_weight, upstream):
        factor = factor if one is None else factor * one
    counted, factor = (jnp.broadcast_to(x, (rows,)) for x in (counted, factor))

    # what is wanted is filled in chunk by chunk; a weight in half precision later, see below
    later = wants.linear_weight and operands.linear_weight.dtype != compute
    later = later and (plan.count > 1 or options.grad_filter > 0)
    shapes: dict[str, tuple[Any, Any]] = {"loss": ((rows,), compute)}
    for name, wanted in wants._asdict().items():
        if wanted and not (name == "linear_weight" and later):
            array = getattr(operands, name)
            shapes[name] = (array.shape, compute if name == "linear_bias" else array.dtype)
    if later:
        shapes |= {"row_max": ((rows,), compute), "row_sum": ((rows,), compute)}
    carry = {name: zeros(*shape, operands.hidden) for name, shape in shapes.items()}
    step = functools.partial(_chunk, options, wants, plan, operands, counted, factor)
    found = each_block(rows, plan.rows, step, carry)
    if later:
        found["linear_weight"] = _weight_grad(options, plan, operands, counted, factor, found)
    if wants.linear_bias:
        found["linear_bias"] = found["linear_bias"].astype(operands.linear_bias.dtype)
    grads = (found[name] for name, wanted in wants._asdict().items() if wanted)
    return _reduced(options, operands, found["loss"], divisor), *grads


def _reduced(options: LinearOptions, operands: LinearOperands, rows: Any, divisor: Any) -> Any:
    if operands.row_weight is not None:
        rows = rows * operands.row_weight
    value = rows if options.loss.reduction == "none" else sum_in_float64(rows)
    value = value / divisor  # 1 but for the mean
    if options.loss.reduction != "mean":
        return value
    return jnp.where(divisor == 0, 0.0 if options.loss.all_ignored == "zero" else jnp.nan, value)


def _chunk(
    options: LinearOptions,
    wants: LinearWants,
    plan: Any,
    operands: LinearOperands,
    counted: Any,
    factor: Any,
    start: Any,
    first: Any,
    size: int,
    carry: dict[str, Any],
) -> dict[str, Any]:
    hidden, matrix, target, bias, weight = operands[:5]
    x = widened(hidden, start, size, options.compute)
    counted, factor = (taken(array, start, size) for array in (counted, factor))
    logits = logits_of(x, matrix, bias, plan.block)
    needs_grad = wants.hidden or wants.linear_weight or wants.linear_bias
    asked = Wants(needs_grad, wants.target, "row_max" in carry)
    each_row = replace(options.loss, reduction="none")
    of_chunk = Operands(logits, _target_rows(target, start, size), weight)
    found = dict(
        zip(("loss", *_names(asked)), call_loss(each_row, of_chunk, asked, True), strict=True)
    )
    grad = found.pop("grad", None)

    # rows that the chunk before had already count in sums no more
    fresh = counted & is_new(start, first, size)
    scaled = jnp.where(fresh[:, None], x * factor[:, None], 0)
    sums = "linear_weight" in carry
    if wants.target:
        wide = found["target"].astype(options.compute) * factor[:, None]
        found["target"] = jnp.where(counted[:, None], wide, 0)
    done = dict(carry)
    kept = kept_classes(grad, options.grad_filter) if options.grad_filter and needs_grad else None
    if kept is not None and (wants.hidden or sums):
        product, total = filtered_products(
            grad,
            kept,
            matrix if wants.hidden else None,
            scaled,
            min(plan.block, FILTER_BLOCK),
            carry["linear_weight"] if sums else None,
        )
    else:
        product = hidden_product(grad, matrix, plan.block) if wants.hidden else None
        total = None
        if sums:
            once = plan.count == 1
            total = weight_product(grad, scaled, plan.block, carry["linear_weight"], once)
    if wants.hidden:
        found["hidden"] = jnp.where(counted[:, None], product * factor[:, None], 0)
    if sums:
        done["linear_weight"] = total
    if wants.linear_bias:
        of_chunk_bias = bias_product(grad, jnp.where(fresh, factor, 0))
        if kept is not None:
            of_chunk_bias = jnp.where(kept, of_chunk_bias, 0)
        done["linear_bias"] = carry["linear_bias"] + of_chunk_bias
    return done | {name: put(carry[name], value, start) for name, value in found.items()}


def _target_rows(target: Any, start: Any, size: int) -> Any:
    if target.dtype != jnp.bfloat16:
        return taken(target, start, size)
    return widened(target, start, size, jnp.float32)


def _names(asked: Wants) -> list[str]:
    names = ["grad"] * asked.grad + ["target"] * asked.target_grad
    return names + ["row_max", "row_sum"] * asked.sums


def _weight_grad(
    options: LinearOptions,
    plan: Any,
    operands: LinearOperands,
    counted: Any,
    factor: Any,
    sums: dict[str, Any],
) -> Any:
    """Gradient of a weight in less precision than is added up in: class block by class block.

    A sum of all of it would take more memory than the weight. The logits of a block are computed
    once more, and their gradient from the rows' statistics.
    """
    hidden, matrix, target, bias, weight = operands[:5]
    rows, (classes, features) = hidden.shape[0], matrix.shape
    compute, hard = options.compute, target.ndim == 1

    def of_block(start: Any, first: Any, size: int, result: Any) -> Any:
        of_class = widened(matrix, start, size, compute)
        offset = None if bias is None else taken(bias, start, size)

        def of_rows(row: Any, first_row: Any, count: int, total: Any) -> Any:
            x = widened(hidden, row, count, compute)
            z = transformed(options.loss, logits_of(x, of_class, offset, size))
            own = _target_rows(target, row, count)
            whole = total_mass(options.loss, own, weight, hard, compute)
            slice_of = own if hard else taken(own, start, size, 1)
            mass = mass_of(options.loss, slice_of, weight, start, z, classes)
            row_max, row_sum = (taken(sums[name], row, count) for name in ("row_max", "row_sum"))
            grad = some_grad(options.loss, z, mass, row_max, row_sum, whole)
            fresh = taken(counted, row, count) & is_new(row, first_row, count)
            grad = jnp.where(fresh[:, None], grad, 0)
            scaled = jnp.where(fresh[:, None], x * taken(factor, row, count)[:, None], 0)

            def sum_up(total: Any) -> Any:
                return weight_product(grad, scaled, size, total, False)

            if not options.grad_filter:
                return sum_up(total)
            small = jnp.all(jnp.abs(grad) < options.grad_filter)
            return lax.cond(small, lambda total: total, sum_up, total)

        total = each_block(rows, plan.rows, of_rows, zeros((size, features), compute, hidden))
        return put(result, total, start)

    return each_block(classes, plan.block, of_block, zeros(matrix.shape, matrix.dtype, hidden))
