"""The binary loss: the function with PyTorch's arguments, and who runs the call."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import _reduction

from fastxent.checks.torch import check_memory, check_no_gradient
from fastxent.torch import binary_formula as formula
from fastxent.torch import binary_operator as operator
from fastxent.torch.devices import check_tensors, kernels_of
from fastxent.torch.door import check_binary_call
from fastxent.torch.eager import graph_is_kept
from fastxent.torch.modes import (
    has_tangent,
    is_batched,
    is_eager,
    needs_grad,
    transforms_are_active,
)

__all__ = ["binary_cross_entropy_with_logits"]


class _BinaryCrossEntropy(torch.autograd.Function):
    """The gradient of the forward pass beside the saved tensors, so that it can be handed over."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        target: Tensor,
        weight: Tensor | None,
        pos_weight: Tensor | None,
        options: dict[str, Any],
    ) -> Tensor:
        options = {**options, "wants_grad": options["wants_grad"] and ctx.needs_input_grad[0]}
        loss, grad = operator.kernel(logits, target, weight, pos_weight, None, **options)
        ctx.options = {**options, "label_smoothing": float(options["label_smoothing"])}
        ctx.grad = grad if options["wants_grad"] else None
        ctx.save_for_backward(logits, target, weight, pos_weight)
        return loss

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        needs_grad, needs_target_grad = ctx.needs_input_grad[:2]
        is_traced = torch.is_grad_enabled() or transforms_are_active() or is_batched(grad_output)
        grad = target_grad = None
        if needs_grad and ctx.grad is not None and not is_traced:
            is_kept = graph_is_kept()
            grad = kernels_of(ctx.grad).scaled(ctx.grad, grad_output, is_kept)
            if not is_kept:
                ctx.grad = None
        elif needs_grad:
            again = {**ctx.options, "wants_grad": True}
            _, grad = operator.call(*ctx.saved_tensors, grad_output, **again)
        if needs_target_grad:
            arguments = [*ctx.saved_tensors, None]
            slope = formula.target_slope(arguments, ctx.options) * grad_output
            target_grad = slope.to(arguments[1].dtype)
        return grad, target_grad, None, None, None


def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
    *,
    label_smoothing: float = 0.0,
    memory: str = "fast",
    backend: str | None = None,
    num_threads: int | None = None,
) -> Tensor:
    """Binary cross-entropy with the arguments of PyTorch's function of that name.

    Parameters
    ----------
    input : Tensor of float16, bfloat16, float32 or float64
        Logits on the CPU or a GPU of NVIDIA's, of any shape and layout.
    target : Tensor of the same shape
        Floating-point numbers: the probability of 1, to which the gradient flows too. Integers and
        booleans: 0 or 1.
    weight : Tensor, optional
        Factor of each element's loss, broadcast to the shape of `input`; not negative.
    size_average, reduce : bool, optional
        Deprecated by PyTorch, with the same effect and the same warning.
    reduction : {"mean", "sum", "none"}, default "mean"
    pos_weight : Tensor, optional
        Factor of the loss of the 1, broadcast likewise.
    label_smoothing : float, default 0.0
        Share of each target that is spread evenly over 0 and 1.
    memory : {"fast", "low"}, default "fast"
        "fast" computes the gradient with the loss; "low" keeps nothing and computes it in backward.
    backend, num_threads
        As in `cross_entropy`.

    Returns
    -------
    Tensor
        float32, or float64 for float64 logits; of the shape of `input` for ``reduction="none"``.

    Raises
    ------
    LabelError, ShapeError, OptionError, DTypeError, BackendError
        As in `cross_entropy`.

    Examples
    --------
    >>> import torch
    >>> from fastxent.torch import binary_cross_entropy_with_logits
    >>> logits = torch.tensor([0.0, 2.0], requires_grad=True)
    >>> loss = binary_cross_entropy_with_logits(logits, torch.tensor([1.0, 0.0]))
    >>> loss.backward()
    >>> logits.grad
    tensor([-0.2500,  0.4404])
    """
    if size_average is not None or reduce is not None:
        reduction = _reduction.legacy_get_string(size_average, reduce)
    check_memory(memory, False)
    named = {"input": input, "target": target, "weight": weight, "pos_weight": pos_weight}
    given = {
        name: tensor
        for name, tensor in named.items()
        if tensor is not None or not name.endswith("weight")
    }
    check_tensors(**given)
    for name in given.keys() & {"weight", "pos_weight"}:
        check_no_gradient(given[name].requires_grad, name)
    if isinstance(label_smoothing, Tensor):
        check_no_gradient(label_smoothing.requires_grad, "label_smoothing")
    is_fused = memory == "fast" and reduction != "none" and input.dtype is not torch.float16
    options: dict[str, Any] = {
        "wants_grad": is_fused and needs_grad(input),
        "reduction": reduction,
        "label_smoothing": label_smoothing,
        "backend": backend,
        "num_threads": num_threads,
    }
    factors = weight, pos_weight
    tensors = list(given.values())
    goes_forward = has_tangent(input, target)
    if not goes_forward and is_eager(*tensors) and not any(map(is_batched, tensors)):
        if torch.is_grad_enabled() and (input.requires_grad or target.requires_grad):
            fused: Tensor = _BinaryCrossEntropy.apply(input, target, *factors, options)
            return fused
        return operator.kernel(input, target, *factors, None, **options)[0]
    check_binary_call(input, target, *factors, options)
    options["label_smoothing"] = float(label_smoothing)
    if goes_forward:
        return formula.loss([input, target, *factors, None], options)
    loss: Tensor = operator.call(input, target, *factors, None, **options)[0]
    return loss
