"""The loss outside of every transform: one thin autograd function around the kernels.

The gradient that the forward pass wrote is handed over, not copied: when the graph is not kept the
function lets go of it before it returns, and PyTorch takes a gradient that nobody else holds as
the `.grad` of a leaf as it is (it clones any other).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastxent.checks.torch import check_in_place_backward, check_in_place_batch
from fastxent.torch import operators
from fastxent.torch.contract import Kernels, Later
from fastxent.torch.devices import kernels_of
from fastxent.torch.in_place import check_writable, watch, written
from fastxent.torch.modes import is_batched, transforms_are_active
from fastxent.torch.settings import Settings

__all__ = ["Call", "graph_is_kept", "run"]

graph_is_kept = torch._C._autograd._get_current_graph_task_keep_graph


_Saved = Sequence[Tensor | None]


@dataclass(slots=True)
class Call:
    """One call of the loss: its arguments beside logits and target, and what backward needs."""

    settings: Settings
    is_plain: bool = False
    weight: Tensor | None = None
    sample_weight: Any = None
    aux: Iterable[str] = ()
    memory: str = "fast"
    in_place: bool = False
    found_aux: Any = None
    grad: Tensor | None = None
    target_grad: Tensor | None = None
    later: Later | None = None
    kernels: Kernels | None = None
    is_spent: bool = False

    def forward(
        self, logits: Tensor, target: Tensor, wants_grad: bool, wants_target_grad: bool
    ) -> Tensor:
        """Loss, with what backward will need as far as it is wanted."""
        self.kernels = kernels = kernels_of(logits)
        is_fused = self.in_place or operators.is_fused(logits, self.settings.reduction, self.memory)
        if self.is_plain and not self.in_place and (is_fused or not wants_grad):
            plain = kernels.plain_forward(logits, target, self.settings, wants_grad)
            if plain is not None:
                loss, self.grad = plain
                return loss
        found = kernels.forward(
            *(logits, target, self.weight, self.sample_weight, self.settings),
            wants_grad=wants_grad and is_fused,
            wants_target_grad=wants_target_grad,
            wants_later=wants_grad and not is_fused,
            out=logits if self.in_place and wants_grad else None,
            aux=self.aux,
        )
        self.grad, self.target_grad = found.grad, found.target_grad
        self.later, self.found_aux = found.later, found.aux
        return found.loss

    def backward(
        self, grad_output: Tensor, needs_grad: bool, is_kept: bool, saved: _Saved
    ) -> tuple[Tensor | None, Tensor | None]:
        """Gradients of logits and target for this upstream gradient.

        `saved` are the tensors that autograd has kept, if they are needed.
        """
        assert self.kernels is not None
        grad = target_grad = None
        if needs_grad:
            grad = (
                self.kernels.scaled(self.grad, grad_output, is_kept and not self.in_place)
                if self.grad is not None
                else self._later_grad(grad_output, saved)
            )
        if self.target_grad is not None:
            target_grad = self.kernels.scaled(self.target_grad, grad_output, is_kept)
        if self.in_place or not is_kept:
            self.grad = self.target_grad = self.later = None
            self.is_spent = True
        return grad, target_grad

    def batched_backward(
        self, grad_output: Tensor, needs_grad: bool, saved: _Saved
    ) -> tuple[Tensor | None, Tensor | None]:
        """Gradients for a batch of upstream gradients, as `torch.autograd.grad` can make one."""
        grad, target_grad = self.grad, self.target_grad
        if grad is None and needs_grad:
            grad = self._later_grad(_ones_like(grad_output), saved)
        return (
            None if grad is None else _times(grad, grad_output),
            None if target_grad is None else _times(target_grad, grad_output),
        )

    def _later_grad(self, grad_output: Tensor, saved: _Saved) -> Tensor:
        assert self.later is not None
        return self.later.grad(saved, grad_output)


def _times(grad: Tensor, grad_output: Tensor) -> Tensor:
    upstream = grad_output.unsqueeze(1) if grad_output.dim() else grad_output
    return (grad * upstream).to(grad.dtype)


def _ones_like(batched: Tensor) -> Tensor:
    """Ones of the shape that each of a batch has."""
    return torch.ones(batched.shape, device=batched.device)


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, call: Call) -> Tensor:
        ctx.call = call
        wants_grad, wants_target_grad, _ = ctx.needs_input_grad
        loss = call.forward(logits, target, wants_grad, wants_target_grad)
        if call.in_place and wants_grad:
            call.grad = written(logits)
        else:
            # for second derivatives, and to notice changed tensors or a graph that is gone
            ctx.save_for_backward(logits, target, call.weight, call.sample_weight)
        return loss

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        call: Call = ctx.call
        needs_grad, needs_target_grad, _ = ctx.needs_input_grad
        saved: _Saved = ()
        if call.in_place and needs_grad:
            check_in_place_backward(call.is_spent, torch.is_grad_enabled())
            check_in_place_batch(is_batched(grad_output))
        elif torch.is_grad_enabled() or transforms_are_active():
            logits, target, weight, sample_weight = ctx.saved_tensors
            _, grad, target_grad = operators.cross_entropy(
                *(logits, target, weight, sample_weight, grad_output, call.settings.numbers()),
                needs_grad,
                needs_target_grad,
            )
            return grad if needs_grad else None, target_grad if needs_target_grad else None, None
        elif call.is_spent or call.later is not None:
            # PyTorch's own errors: a graph that was let go of, tensors that were written to
            saved = ctx.saved_tensors
        if is_batched(grad_output):
            return (*call.batched_backward(grad_output, needs_grad, saved), None)
        return (*call.backward(grad_output, needs_grad, graph_is_kept(), saved), None)


# without the detour over functorch, which `is_eager` has excluded: 1.6 us
_apply: Any = super(torch.autograd.Function, _CrossEntropy).apply


def run(logits: Tensor, target: Tensor, call: Call) -> Tensor:
    """The loss, with a graph where one is needed."""
    if torch.is_grad_enabled() and (logits.requires_grad or target.requires_grad):
        if call.in_place and logits.requires_grad:
            return _run_in_place(logits, target, call)
        loss: Tensor = _apply(logits, target, call)
        return loss
    return call.forward(logits, target, False, False)


def _run_in_place(logits: Tensor, target: Tensor, call: Call) -> Tensor:
    check_writable(logits)
    handles = watch(logits)
    try:
        return _apply(logits, target, call)
    except BaseException:  # nothing was written
        for handle in handles:
            handle.remove()
        raise
