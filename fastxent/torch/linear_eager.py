"""The loss behind a linear layer outside of every transform: autograd around the loop of chunks.

Gradients that were computed with the loss are handed over, not copied, where the graph is not kept.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fastxent.torch.devices import kernels_of
from fastxent.torch.eager import graph_is_kept
from fastxent.torch.linear_arguments import Chunking, LinearArguments, Wants
from fastxent.torch.linear_chunks import compute
from fastxent.torch.linear_operator import is_fused, linear_cross_entropy
from fastxent.torch.modes import is_batched, transforms_are_active
from fastxent.torch.settings import Settings

__all__ = ["run"]


@dataclass(slots=True)
class _Call:
    """One call: its options, and what backward needs beside the tensors of autograd."""

    settings: Settings
    chunking: Chunking
    aux: Iterable[str]
    weight: Tensor | None
    sample_weight: Tensor | None
    found_aux: Any = None
    is_fused: bool = False
    grads: dict[str, Tensor] = field(default_factory=dict)

    def forward(self, arguments: LinearArguments, wants: Wants) -> Tensor:
        """Loss, with the gradients that are computed with it."""
        self.is_fused = is_fused(arguments, self.settings.reduction)
        now, chunking = wants, self.chunking
        if not self.is_fused:
            now, chunking = Wants(), chunking._replace(later=wants)
        found = compute(arguments, self.settings, chunking, now, aux=self.aux)
        self.found_aux = found.aux
        for name in Wants._fields:
            grad = getattr(found, name)
            if grad is not None:
                self.grads[name] = grad
        return found.loss

    def scaled(self, grad_output: Tensor, needs: Wants) -> dict[str, Tensor]:
        """The gradients that are there times the upstream one."""
        is_kept = graph_is_kept()
        scaled = {
            name: kernels_of(grad).scaled(grad, grad_output, is_kept)
            for name, grad in self.grads.items()
            if getattr(needs, name)
        }
        if not is_kept:
            self.grads = {}
        return scaled


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        linear_weight: Tensor,
        target: Tensor,
        linear_bias: Tensor | None,
        call: _Call,
    ) -> Tensor:
        ctx.call = call
        needs = ctx.needs_input_grad
        arguments = LinearArguments(
            *(input, linear_weight, target, linear_bias, call.weight, call.sample_weight)
        )
        loss = call.forward(arguments, Wants(needs[0], needs[1], needs[3], needs[2]))
        # for gradients that are computed later, and to notice changed tensors
        ctx.save_for_backward(*arguments)
        return loss

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Any, ...]:
        call: _Call = ctx.call
        needs_grad = ctx.needs_input_grad
        needs = Wants(needs_grad[0], needs_grad[1], needs_grad[3], needs_grad[2])
        is_traced = torch.is_grad_enabled() or transforms_are_active()
        found: dict[str, Tensor]
        if call.is_fused and not is_traced and not is_batched(grad_output):
            # PyTorch's own errors: a graph that was let go of, tensors that were written to
            _ = ctx.saved_tensors
            found = call.scaled(grad_output, needs)
        else:
            arguments = LinearArguments(*ctx.saved_tensors)
            if call.is_fused and not is_traced:
                found = {name: _times(grad, grad_output) for name, grad in call.grads.items()}
            else:
                _, *grads = linear_cross_entropy(
                    arguments, grad_output, call.settings, call.chunking, needs
                )
                found = dict(zip(Wants._fields, grads, strict=True))
        named = (
            found[name] if getattr(needs, name) else None
            for name in ("input", "linear_weight", "target", "linear_bias")
        )
        return (*named, None)


def _times(grad: Tensor, grad_output: Tensor) -> Tensor:
    return (grad * grad_output).to(grad.dtype)


def run(
    arguments: LinearArguments, settings: Settings, chunking: Chunking, aux: Iterable[str]
) -> tuple[Tensor, Any]:
    """The loss, with a graph where one is needed, and the side outputs."""
    given, weights, target, bias, weight, sample_weight = arguments
    call = _Call(settings, chunking, aux, weight, sample_weight)
    tensors = given, weights, target, bias
    if torch.is_grad_enabled() and any(one is not None and one.requires_grad for one in tensors):
        loss: Tensor = _LinearCrossEntropy.apply(*tensors, call)
        return loss, call.found_aux
    return call.forward(arguments, Wants()), call.found_aux
