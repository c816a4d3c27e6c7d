"""Who runs a call: our own autograd function at once, or the operators that PyTorch can trace."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import Parameter

__all__ = [
    "has_tangent",
    "is_batched",
    "is_eager",
    "needs_grad",
    "outside_of_transforms",
    "plain_tensor",
    "shapes_are_known",
    "transforms_are_active",
    "without_autocast",
]

_PLAIN = (Tensor, Parameter)

transforms_are_active = torch._C._are_functorch_transforms_active

# Within it tensors that no transform has wrapped are what they are without any.
outside_of_transforms: Any = torch._C._DisableFuncTorch


def is_eager(*tensors: Any) -> bool:
    """Whether nothing looks at the call but autograd: no tracing, no transform, no subclass.

    The eager way is one thin `torch.autograd.Function` around the kernels: for (32, 10) the loss
    takes 15 us, where its operator takes 190.
    """
    if (
        torch.compiler.is_compiling()
        or transforms_are_active()
        or torch._C._len_torch_dispatch_stack()
        or torch._C._get_tracing_state() is not None
    ):
        return False
    for one in tensors:
        if type(one) not in _PLAIN:
            return False
        if not one.is_cpu:
            return _are_on_one_gpu(tensors)
    return True


def _are_on_one_gpu(tensors: tuple[Any, ...]) -> bool:
    """Whether a kernel may see them all; of those that are not together the door tells."""
    device = tensors[0].device
    return device.type == "cuda" and all(
        type(one) in _PLAIN and one.device == device for one in tensors
    )


def is_batched(tensor: Tensor) -> bool:
    """Whether ``is_grads_batched=True`` made this, which is no transform of torch.func."""
    return bool(torch._C._functorch.is_legacy_batchedtensor(tensor))


def shapes_are_known(*tensors: Tensor | None) -> bool:
    """Whether sizes are numbers, not what a compiler or tracer has for them."""
    if torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None:
        return False
    given = [one for one in tensors if one is not None]
    return not any(isinstance(size, torch.SymInt) for one in given for size in one.shape)


def plain_tensor(tensor: Tensor) -> Tensor | None:
    """The tensor with values of its own below all transforms; None where vmap or a mode has it."""
    if torch._C._len_torch_dispatch_stack():
        return None
    functorch = torch._C._functorch
    if is_batched(tensor):
        return None
    while functorch.is_functorch_wrapped_tensor(tensor):
        if functorch.is_batchedtensor(tensor):
            return None
        tensor = functorch.get_unwrapped(tensor)
    return tensor if type(tensor) in _PLAIN and tensor.is_cpu else None


def without_autocast(device: str) -> Any:
    """Context in which operators compute in the dtypes that they are given."""
    if not torch.amp.is_autocast_available(device):
        return contextlib.nullcontext()
    return torch.autocast(device, enabled=False)


def needs_grad(tensor: Tensor) -> bool:
    """Whether a gradient of this tensor may be asked for, at any level of a transform."""
    if torch.compiler.is_exporting() or not tensor.is_floating_point():
        return False
    if torch.compiler.is_compiling():
        return bool(torch.is_grad_enabled() and tensor.requires_grad)
    functorch = torch._C._functorch
    while functorch.is_functorch_wrapped_tensor(tensor):
        if tensor.requires_grad:
            return True
        tensor = functorch.get_unwrapped(tensor)
    return bool(torch.is_grad_enabled() and tensor.requires_grad)


def has_tangent(*tensors: Tensor | None) -> bool:
    """Whether forward-mode differentiation goes through one of these."""
    if torch.compiler.is_compiling():
        return False
    if transforms_are_active():
        levels = torch._C._functorch.get_interpreter_stack() or ()
        return any(level.key() == torch._C._functorch.TransformType.Jvp for level in levels)
    if forward_ad._current_level < 0:
        return False
    return any(
        one is not None and forward_ad.unpack_dual(one).tangent is not None for one in tensors
    )
