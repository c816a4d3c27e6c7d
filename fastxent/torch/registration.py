"""One operator with all that PyTorch may want of it: kernel, fake kernel, derivative, vmap."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from fastxent.torch.modes import is_batched, is_eager, transforms_are_active

__all__ = ["register"]


def register(
    name: str,
    schema: str,
    *,
    kernel: Callable[..., Any],
    fake: Callable[..., Any],
    setup: Callable[..., None],
    backward: Callable[..., Any],
    batched: Callable[..., Any],
) -> Callable[..., Any]:
    """Define ``fastxent::name`` and give the function that calls it.

    `setup` takes the context, the positional inputs, the options and the outputs. `batched` takes
    the function to call, then what `torch.library.register_vmap` hands over.
    """
    qualified = f"fastxent::{name}"
    torch.library.define(qualified, schema, tags=(torch.Tag.pt2_compliant_tag,))
    for key in ("CPU", "CUDA"):
        torch.library.impl(qualified, key)(kernel)
    torch.library.register_fake(qualified)(fake)
    operator: Any = getattr(torch.ops.fastxent, name).default

    def setup_operator(
        ctx: Any, inputs: Any, output: Any, keyword_only_inputs: dict[str, Any] | None = None
    ) -> None:
        setup(ctx, inputs, keyword_only_inputs or {}, output)

    def vmap_operator(info: Any, in_dims: Any, *inputs: Any, **options: Any) -> Any:
        return batched(operator, info, in_dims, *inputs, **options)

    torch.library.register_autograd(qualified, backward, setup_context=setup_operator)
    torch.library.register_vmap(qualified, vmap_operator)

    # The transforms of torch.func refuse the derivative that an operator has registered; they
    # take that of an autograd function in this form.
    class Transformable(torch.autograd.Function):
        @staticmethod
        def forward(*arguments: Any) -> Any:
            *inputs, options = arguments
            return operator(*inputs, **options)

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            *given, options = inputs
            setup(ctx, given, options, output)

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            return (*backward(ctx, *grads), None)

        @staticmethod
        def vmap(info: Any, in_dims: Any, *arguments: Any) -> Any:
            *inputs, options = arguments
            return batched(call, info, in_dims[:-1], *inputs, **options)

    # Outside of all that the dispatcher takes its time for: 80 us to fill in the schema's defaults.
    class Eager(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *arguments: Any) -> Any:
            *inputs, options = arguments
            output = kernel(*inputs, **options)
            setup(ctx, inputs, options, output)
            return output

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            return (*backward(ctx, *grads), None)

    def call(*inputs: Any, **options: Any) -> Any:
        tensors = [one for one in inputs if isinstance(one, torch.Tensor)]
        if is_eager(*tensors) and not any(map(is_batched, tensors)):
            if torch.is_grad_enabled() and any(one.requires_grad for one in tensors):
                return Eager.apply(*inputs, options)
            return kernel(*inputs, **options)
        if not torch.compiler.is_compiling() and transforms_are_active():
            return Transformable.apply(*inputs, options)
        return operator(*inputs, **options)

    return call
