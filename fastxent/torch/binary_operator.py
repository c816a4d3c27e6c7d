"""The binary loss as an operator of PyTorch: schema, kernel, fake kernel, autograd, vmap."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastxent.checks import check_choice
from fastxent.reduction import REDUCTIONS
from fastxent.torch import binary_formula as formula
from fastxent.torch.devices import kernels_of
from fastxent.torch.registration import register

__all__ = ["call", "kernel"]


def kernel(logits: Tensor, *inputs: Tensor | None, **options: Any) -> tuple[Tensor, Tensor]:
    """Loss, and gradient, empty where it is not wanted."""
    return kernels_of(logits).binary(logits, *inputs, **options)


def _fake(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    pos_weight: Tensor | None,
    grad_output: Tensor | None,
    *,
    wants_grad: bool,
    reduction: str,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    dtype = formula.loss_dtype(logits)
    is_whole = reduction == "none"
    loss = torch.empty_like(logits, dtype=dtype) if is_whole else logits.new_empty((), dtype=dtype)
    return loss, torch.empty_like(logits) if wants_grad else logits.new_empty(0)


def _setup(ctx: Any, inputs: Any, options: dict[str, Any], output: Any) -> None:
    ctx.options = options
    ctx.save_for_backward(*inputs, output[1])
    ctx.set_materialize_grads(False)


def _backward(
    ctx: Any, of_loss: Tensor | None, of_grad: Tensor | None
) -> tuple[Tensor | None, ...]:
    *arguments, grad = ctx.saved_tensors
    logits, target, _, _, grad_output = arguments
    options = ctx.options
    needs_grad, needs_target_grad = ctx.needs_input_grad[:2]
    to_logits = to_target = to_grad_output = None
    if of_loss is not None and needs_grad:
        if options["wants_grad"] and grad_output is None:
            to_logits = (grad * of_loss).to(logits.dtype)
        else:
            again = {**options, "wants_grad": True}
            _, to_logits = call(*arguments[:4], of_loss, **again)
    if of_loss is not None and needs_target_grad:
        to_target = formula.target_slope(arguments, options) * of_loss
    if of_grad is not None and options["wants_grad"]:
        more = formula.gradients_of_gradient(arguments, options, of_grad)
        to_logits = more[0] if to_logits is None else to_logits + more[0]
        to_target = more[1] if to_target is None else to_target + more[1]
        to_grad_output = more[2]
    if to_target is not None:
        to_target = to_target.to(target.dtype) if needs_target_grad else None
    return to_logits, to_target, None, None, to_grad_output


def _batched(
    operator: Callable[..., Any],
    info: Any,
    in_dims: Any,
    *arguments: Tensor | None,
    **options: Any,
) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
    """One call over all samples; the mean of each is over its own elements."""
    size = info.batch_size
    logits = arguments[0]
    assert logits is not None
    dims = logits.dim() - (in_dims[0] is not None)
    merged = [
        None if one is None else _spread(one, dim, size, dims)
        for one, dim in zip(arguments, in_dims[:5], strict=True)
    ]
    reduction = check_choice(options["reduction"], "reduction", REDUCTIONS)
    each = {**options, "reduction": "none"}
    logits, target, weight, pos_weight, upstream = merged
    assert logits is not None
    count = math.prod(logits.shape[1:])
    if upstream is not None:
        upstream = upstream.expand_as(logits)
    if reduction == "mean" and count:
        one = logits.new_ones((), dtype=formula.loss_dtype(logits))
        weight = (one if weight is None else weight.to(one.dtype)) / count
    loss, grad = operator(logits, target, weight, pos_weight, upstream, **each)
    if reduction != "none":
        loss = loss.flatten().reshape(size, count).sum(1)
        if reduction == "mean" and not count:
            loss = loss / 0.0
    if not options["wants_grad"]:
        grad = grad.new_empty(size, 0)
    return (loss, grad), (0, 0)


def _spread(tensor: Tensor, dim: int | None, size: int, dims: int) -> Tensor:
    """The batch first, and as many dimensions after it as a sample of the logits has."""
    if dim is None:
        if tensor.dim() < dims:
            return tensor
        return tensor.unsqueeze(0).expand(size, *tensor.shape)
    tensor = tensor.movedim(dim, 0)
    missing = dims - (tensor.dim() - 1)
    return tensor.reshape(tensor.shape[0], *(1,) * missing, *tensor.shape[1:])


call = register(
    "binary_cross_entropy_with_logits",
    "(Tensor logits, Tensor target, Tensor? weight, Tensor? pos_weight, Tensor? grad_output, *, "
    "bool wants_grad, str reduction, float label_smoothing, str? backend, int? num_threads) "
    "-> (Tensor, Tensor)",
    kernel=kernel,
    fake=_fake,
    setup=_setup,
    backward=_backward,
    batched=_batched,
)
