"""The loss as an operator of PyTorch: schema, kernel, fake kernel, autograd, vmap.

For what looks into a call: torch.compile, torch.export, torch.func, fake and meta tensors, and
second derivatives. The gradients are outputs of the operator that have a derivative themselves, so
any order goes through one registration.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastxent.torch import formula
from fastxent.torch.arrays import class_axis
from fastxent.torch.batching import batched_cross_entropy
from fastxent.torch.devices import kernels_of
from fastxent.torch.registration import register
from fastxent.torch.settings import Settings

__all__ = ["cross_entropy", "is_fused"]

_Tensors = tuple[Tensor, Tensor, Tensor]


def is_fused(logits: Tensor, reduction: str, memory: str) -> bool:
    """Whether the gradient is computed with the loss, before the upstream gradient is known.

    Not where that one has a factor of each row, which would cost a pass of its own, and not in
    float16: the gradient of a mean goes below its smallest number before a scaled loss lifts it.
    """
    return memory == "fast" and reduction != "none" and logits.dtype is not torch.float16


def cross_entropy(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    sample_weight: Tensor | None,
    grad_output: Tensor | None,
    settings: Settings,
    wants_grad: bool,
    wants_target_grad: bool,
) -> _Tensors:
    """Call the operator: loss, gradient and gradient of the target, empty where not wanted."""
    return _call(  # type: ignore[no-any-return]
        logits,
        target,
        weight,
        sample_weight,
        grad_output,
        wants_grad=wants_grad,
        wants_target_grad=wants_target_grad,
        **settings._asdict(),
    )


def _kernel(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    sample_weight: Tensor | None,
    grad_output: Tensor | None,
    *,
    wants_grad: bool,
    wants_target_grad: bool,
    **options: Any,
) -> _Tensors:
    found = kernels_of(logits).forward(
        logits,
        target,
        weight,
        sample_weight,
        Settings(**options),
        grad_output=grad_output,
        wants_grad=wants_grad,
        wants_target_grad=wants_target_grad,
        # laid out as the fake kernel says
        out=None if logits.is_contiguous() or not wants_grad else torch.empty_like(logits),
    )
    nothing = logits.new_empty(0)
    target_grad = nothing.clone() if found.target_grad is None else found.target_grad
    if wants_target_grad and not target.is_contiguous():
        # laid out as the fake kernel says
        target_grad = torch.empty_like(target).copy_(target_grad)
    return found.loss, nothing if found.grad is None else found.grad, target_grad


def _fake(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    sample_weight: Tensor | None,
    grad_output: Tensor | None,
    *,
    wants_grad: bool,
    wants_target_grad: bool,
    reduction: str,
    **options: Any,
) -> _Tensors:
    axis = class_axis(logits)
    shape = (*logits.shape[:axis], *logits.shape[axis + 1 :]) if reduction == "none" else ()
    dtype = torch.float64 if logits.dtype is torch.float64 else torch.float32
    grad = torch.empty_like(logits) if wants_grad else logits.new_empty(0)
    target_grad = torch.empty_like(target) if wants_target_grad else logits.new_empty(0)
    return logits.new_empty(shape, dtype=dtype), grad, target_grad


def _setup(ctx: Any, inputs: Any, options: dict[str, Any], output: Any) -> None:
    options = dict(options)
    ctx.has_grad = options.pop("wants_grad")
    ctx.has_target_grad = options.pop("wants_target_grad")
    ctx.settings = Settings(**options)
    ctx.save_for_backward(*inputs, *output[1:])
    ctx.set_materialize_grads(False)


def _spread(grad_output: Tensor, axis: int) -> Tensor:
    return grad_output.unsqueeze(axis) if grad_output.dim() else grad_output


def _backward(
    ctx: Any, of_loss: Tensor | None, of_grad: Tensor | None, of_target_grad: Tensor | None
) -> tuple[Tensor | None, ...]:
    *arguments, grad, target_grad = ctx.saved_tensors
    logits, target, weight, sample_weight, grad_output = arguments
    needs_grad, needs_target_grad = ctx.needs_input_grad[:2]
    to_logits = to_target = to_grad_output = None
    if of_loss is not None:
        # an upstream gradient that was given is no factor of the loss
        has_grad = ctx.has_grad and grad_output is None
        has_target_grad = ctx.has_target_grad and grad_output is None
        if (needs_grad and not has_grad) or (needs_target_grad and not has_target_grad):
            _, grad, target_grad = cross_entropy(
                *(logits, target, weight, sample_weight, of_loss, ctx.settings),
                needs_grad,
                needs_target_grad,
            )
        else:
            upstream = _spread(of_loss, class_axis(logits))
            grad = (grad * upstream).to(logits.dtype) if needs_grad else None
            if needs_target_grad:
                target_grad = (target_grad * upstream).to(target.dtype)
        to_logits = grad if needs_grad else None
        to_target = target_grad if needs_target_grad else None
    if of_grad is not None or of_target_grad is not None:
        of_grad = of_grad if ctx.has_grad else None
        of_target_grad = of_target_grad if ctx.has_target_grad else None
        more = formula.gradients_of_gradients(
            tuple(arguments), ctx.settings, of_grad, of_target_grad
        )
        to_logits = more[0] if to_logits is None else to_logits + more[0]
        if needs_target_grad:
            to_target = more[1] if to_target is None or more[1] is None else to_target + more[1]
        to_grad_output = more[2]
    return to_logits, to_target, None, None, to_grad_output


_call = register(
    "cross_entropy",
    "(Tensor logits, Tensor target, Tensor? weight, Tensor? sample_weight, Tensor? grad_output, *, "
    "bool wants_grad, bool wants_target_grad, int? ignore_index, float label_smoothing, "
    "str reduction, float? normalizer, float z_loss, float? softcap, float logit_scale, "
    "str all_ignored, str? backend, int? num_threads) -> (Tensor, Tensor, Tensor)",
    kernel=_kernel,
    fake=_fake,
    setup=_setup,
    backward=_backward,
    batched=batched_cross_entropy,
)
