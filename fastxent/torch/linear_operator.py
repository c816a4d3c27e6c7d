"""The loss behind a linear layer as an operator: schema, kernel, fake kernel, autograd, vmap.

For what looks into a call, as `fastxent.torch.operators` has it for the loss alone. The gradients
are outputs that have a derivative themselves; that one holds the logits whole.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastxent.torch import formula, operators
from fastxent.torch.linear_arguments import Chunking, LinearArguments, Wants
from fastxent.torch.linear_chunks import compute
from fastxent.torch.modes import without_autocast
from fastxent.torch.registration import register
from fastxent.torch.settings import Settings

__all__ = ["is_fused", "linear_cross_entropy"]

_Tensors = tuple[Tensor, ...]
_WANTED = tuple(f"wants_{name}" for name in Wants._fields)
# Where the inputs that have a gradient are among those of the operator.
_AT = {"input": 0, "linear_weight": 1, "target": 2, "linear_bias": 3}


def is_fused(arguments: LinearArguments, reduction: str) -> bool:
    """Whether gradients are computed with the loss, before the upstream gradient is known.

    Not where that one has a factor of each row, and not in float16, where the gradient of a mean
    goes below the smallest number before a scaled loss lifts it.
    """
    given = arguments.input, arguments.linear_weight, arguments.linear_bias, arguments.target
    has_float16 = any(one is not None and one.dtype is torch.float16 for one in given)
    return reduction != "none" and not has_float16


def linear_cross_entropy(
    arguments: LinearArguments,
    grad_output: Tensor | None,
    settings: Settings,
    chunking: Chunking,
    wants: Wants,
) -> _Tensors:
    """Call the operator: loss, and the gradients in the order of `Wants`, empty if not wanted."""
    return _call(  # type: ignore[no-any-return]
        *arguments,
        grad_output,
        **dict(zip(_WANTED, wants, strict=True)),
        **settings._asdict(),
        **chunking._asdict(),
    )


def _split(options: dict[str, Any]) -> tuple[Settings, Chunking, Wants]:
    return (
        Settings(**{name: options[name] for name in Settings._fields}),
        Chunking(**{name: options[name] for name in Chunking._fields}),
        Wants(*(options[name] for name in _WANTED)),
    )


def _kernel(*inputs: Any, **options: Any) -> _Tensors:
    *tensors, grad_output = inputs
    arguments = LinearArguments(*tensors)
    settings, chunking, wants = _split(options)
    found = compute(arguments, settings, chunking, wants, grad_output)
    grads = (getattr(found, name) for name in Wants._fields)
    empty = arguments.input.new_empty
    return (found.loss, *(empty(0) if grad is None else grad for grad in grads))


def _fake(*inputs: Any, **options: Any) -> _Tensors:
    arguments = LinearArguments(*inputs[:-1])
    settings, _, wants = _split(options)
    shape = arguments.rows_shape if settings.reduction == "none" else ()
    grads = []
    for name, is_wanted in zip(Wants._fields, wants, strict=True):
        given = getattr(arguments, name)
        grads.append(
            torch.empty_like(given, memory_format=torch.contiguous_format)
            if is_wanted
            else arguments.input.new_empty(0)
        )
    return (arguments.input.new_empty(shape, dtype=arguments.dtype), *grads)


def _setup(ctx: Any, inputs: Any, options: dict[str, Any], output: Any) -> None:
    ctx.settings, ctx.chunking, ctx.wants = _split(options)
    ctx.save_for_backward(*inputs, *output[1:])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, of_loss: Tensor | None, *of_grads: Tensor | None) -> _Tensors:
    saved = ctx.saved_tensors
    arguments, grad_output, grads = LinearArguments(*saved[:6]), saved[6], saved[7:]
    needs = Wants(*(ctx.needs_input_grad[_AT[name]] for name in Wants._fields))
    found: list[Any] = [None] * 7
    if of_loss is not None:
        # an upstream gradient that was given is no factor of the loss, and one of each row is no
        # factor of sums over rows
        is_factor = grad_output is None and not of_loss.dim()
        has = [is_there and is_factor for is_there in ctx.wants]
        if any(need and not is_there for need, is_there in zip(needs, has, strict=True)):
            grads = linear_cross_entropy(arguments, of_loss, ctx.settings, ctx.chunking, needs)[1:]
        else:
            grads = [
                (grad * of_loss).to(grad.dtype) if need else grad
                for need, grad in zip(needs, grads, strict=True)
            ]
        for name, need, grad in zip(Wants._fields, needs, grads, strict=True):
            found[_AT[name]] = grad if need else None
    of_grads = tuple(
        one if wanted else None for one, wanted in zip(of_grads, ctx.wants, strict=True)
    )
    if any(one is not None for one in of_grads):
        with without_autocast(arguments.input.device.type):
            more = _gradients_of_gradients(arguments, grad_output, ctx.settings, of_grads)
        for at, one in more.items():
            if at == 6 or ctx.needs_input_grad[at]:
                found[at] = one if found[at] is None or one is None else found[at] + one
    return tuple(found)


def _gradients_of_gradients(
    arguments: LinearArguments,
    grad_output: Tensor | None,
    settings: Settings,
    of_grads: tuple[Tensor | None, ...],
) -> dict[int, Tensor | None]:
    """Pull cotangents of the gradients back to the inputs, by their number.

    With G the gradient of the logits the gradients are ``G @ W``, ``G.T @ x`` and the sum of G.
    """
    given, weights, target, bias, weight, sample_weight = arguments
    dtype, logits = arguments.dtype, arguments.logits()
    x = given.to(dtype)
    matrix = weights.to(dtype).reshape(-1, x.shape[1])
    of_input, of_weights, of_bias, of_target = of_grads
    _, grad, _ = operators.cross_entropy(
        *(logits, target, weight, sample_weight, grad_output, settings.numbers(), True, False)
    )
    grad = grad.reshape(x.shape[0], -1)
    to_x = to_matrix = None
    of_logits = torch.zeros_like(grad)
    if of_input is not None:
        of_logits = of_logits + of_input.to(dtype) @ matrix.t()
        to_matrix = grad.t() @ of_input.to(dtype)
    if of_weights is not None:
        spread = of_weights.to(dtype).reshape(matrix.shape)
        of_logits = of_logits + x @ spread.t()
        to_x = grad @ spread
    if of_bias is not None:
        of_logits = of_logits + of_bias.to(dtype).reshape(-1)
    to_logits, to_target, to_upstream = formula.gradients_of_gradients(
        (logits, target, weight, sample_weight, grad_output),
        settings,
        of_logits.reshape(logits.shape),
        of_target,
    )
    flat = to_logits.reshape(grad.shape)
    to_x = flat @ matrix if to_x is None else to_x + flat @ matrix
    to_matrix = flat.t() @ x if to_matrix is None else to_matrix + flat.t() @ x
    return {
        0: to_x.to(given.dtype),
        1: to_matrix.reshape(weights.shape).to(weights.dtype),
        2: to_target,
        3: None if bias is None else flat.sum(0).reshape(bias.shape).to(bias.dtype),
        6: to_upstream,
    }


def _batched(
    operator: Callable[..., Any],
    info: Any,
    in_dims: tuple[int | None, ...],
    *inputs: Any,
    **options: Any,
) -> tuple[_Tensors, tuple[int, ...]]:
    """Each sample in turn: the products of one fill the machine."""
    fronts = [
        one if dim is None else one.movedim(dim, 0)
        for one, dim in zip(inputs, in_dims, strict=True)
    ]
    each = [
        operator(
            *(one if dim is None else one[at] for one, dim in zip(fronts, in_dims, strict=True)),
            **options,
        )
        for at in range(info.batch_size)
    ]
    stacked = tuple(torch.stack(found) for found in zip(*each, strict=True))
    return stacked, (0,) * len(stacked)


_call = register(
    "linear_cross_entropy",
    "(Tensor input, Tensor linear_weight, Tensor target, Tensor? linear_bias, Tensor? weight, "
    "Tensor? sample_weight, Tensor? grad_output, *, bool wants_input, bool wants_linear_weight, "
    "bool wants_linear_bias, bool wants_target, int? ignore_index, float label_smoothing, "
    "str reduction, float? normalizer, float z_loss, float? softcap, float logit_scale, "
    "str all_ignored, str? backend, int? num_threads, float? memory_budget, float grad_filter, "
    "int? chunk_rows, int? aspect_ratio, bool[] later) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    kernel=_kernel,
    fake=_fake,
    setup=_setup,
    backward=_backward,
    batched=_batched,
)
