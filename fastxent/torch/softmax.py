"""Softmax and its logarithm as operators, forward and backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastxent.torch.devices import check_tensors, kernels_of
from fastxent.torch.door import check_softmax_call
from fastxent.torch.modes import has_tangent, is_eager
from fastxent.torch.registration import register

__all__ = ["log_softmax", "softmax"]


def _softmax(x: Tensor, *options: Any) -> Tensor:
    return kernels_of(x).softmax(x, *options)


def _softmax_backward(grad: Tensor, result: Tensor, *options: Any) -> Tensor:
    return kernels_of(result).softmax_backward(grad, result, *options)


def _fake(x: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(x)


def _fake_backward(grad: Tensor, result: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(result)


def _setup(ctx: Any, inputs: tuple[Any, ...], _: Any, output: Tensor) -> None:
    ctx.options = inputs[1:]
    ctx.save_for_backward(output)


def _setup_backward(ctx: Any, inputs: tuple[Any, ...], _: Any, output: Tensor) -> None:
    ctx.options = inputs[2:]
    ctx.save_for_backward(*inputs[:2])


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (result,) = ctx.saved_tensors
    given = _call_backward(grad, result, *ctx.options)
    return given, None, None, None, None


def _backward_of_backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
    """Derivative of ``p * (g - <p, g>)``, or ``g - exp(log_p) * sum g``, in plain operators."""
    grad, result = ctx.saved_tensors
    dim, is_log = ctx.options[:2]
    if is_log:
        p = torch.exp(result)
        along = (cotangent * p).sum(dim, keepdim=True)
        to_grad = cotangent - along
        to_result = -cotangent * p * grad.sum(dim, keepdim=True)
    else:
        along = (cotangent * result).sum(dim, keepdim=True)
        to_grad = result * (cotangent - along)
        to_result = cotangent * (grad - (result * grad).sum(dim, keepdim=True)) - along * grad
    return to_grad, to_result, None, None, None, None


def _first(tensor: Tensor, at: int | None, size: int) -> Tensor:
    if at is None:
        return tensor.unsqueeze(0).expand(size, *tensor.shape)
    return tensor.movedim(at, 0)


def _batched(
    operator: Callable[..., Any], info: Any, in_dims: Any, x: Tensor, dim: int, *options: Any
) -> tuple[Tensor, int]:
    x = _first(x, in_dims[0], info.batch_size)
    return operator(x, _beside_batch(x, dim), *options), 0


def _batched_backward(
    operator: Callable[..., Any],
    info: Any,
    in_dims: Any,
    grad: Tensor,
    result: Tensor,
    dim: int,
    *options: Any,
) -> tuple[Tensor, int]:
    grad = _first(grad, in_dims[0], info.batch_size)
    result = _first(result, in_dims[1], info.batch_size)
    place = _beside_batch(result, dim)
    return operator(grad, result, place, *options), 0


def _beside_batch(x: Tensor, dim: int) -> int:
    return dim + 1 if dim >= 0 else dim


_call = register(
    "softmax",
    "(Tensor x, int dim, bool is_log, str? backend, int? num_threads) -> Tensor",
    kernel=_softmax,
    fake=_fake,
    setup=_setup,
    backward=_backward,
    batched=_batched,
)
_call_backward = register(
    "softmax_backward",
    "(Tensor grad, Tensor result, int dim, bool is_log, str? backend, int? num_threads) -> Tensor",
    kernel=_softmax_backward,
    fake=_fake_backward,
    setup=_setup_backward,
    backward=_backward_of_backward,
    batched=_batched_backward,
)


def softmax(
    input: Tensor,
    dim: int | None = None,
    _stacklevel: int = 3,
    dtype: torch.dtype | None = None,
    *,
    backend: str | None = None,
    num_threads: int | None = None,
) -> Tensor:
    """Softmax with the arguments of `torch.nn.functional.softmax`.

    Parameters
    ----------
    input : Tensor of float16, bfloat16, float32 or float64
        On the CPU or a GPU of NVIDIA's, of any shape and layout.
    dim : int, optional
        The axis of the classes. Without it PyTorch's implicit choice, with its warning.
    dtype : torch.dtype, optional
        What the input is converted to first.
    backend, num_threads
        As in `cross_entropy`.

    Returns
    -------
    Tensor
        Shape of `input`; its dtype, or `dtype`.

    Raises
    ------
    ShapeError, DTypeError, BackendError
        As in `cross_entropy`.

    Examples
    --------
    >>> import torch
    >>> from fastxent.torch import softmax
    >>> softmax(torch.tensor([2.0, 1.0, 0.1]), dim=0)
    tensor([0.6590, 0.2424, 0.0986])
    """
    if dim is None:
        dim = torch.nn.functional._get_softmax_dim("softmax", input.dim(), _stacklevel)
    return _normalised(input, dim, dtype, False, backend, num_threads)


def log_softmax(
    input: Tensor,
    dim: int | None = None,
    _stacklevel: int = 3,
    dtype: torch.dtype | None = None,
    *,
    backend: str | None = None,
    num_threads: int | None = None,
) -> Tensor:
    """Logarithm of the softmax with the arguments of `torch.nn.functional.log_softmax`.

    Parameters
    ----------
    input : Tensor of float16, bfloat16, float32 or float64
        On the CPU or a GPU of NVIDIA's, of any shape and layout.
    dim : int, optional
        The axis of the classes. Without it PyTorch's implicit choice, with its warning.
    dtype : torch.dtype, optional
        What the input is converted to first.
    backend, num_threads
        As in `cross_entropy`.

    Returns
    -------
    Tensor
        Shape of `input`; its dtype, or `dtype`.

    Raises
    ------
    ShapeError, DTypeError, BackendError
        As in `cross_entropy`.

    Examples
    --------
    >>> import torch
    >>> from fastxent.torch import log_softmax
    >>> log_softmax(torch.tensor([2.0, 1.0, 0.1]), dim=0)
    tensor([-0.4170, -1.4170, -2.3170])
    """
    if dim is None:
        dim = torch.nn.functional._get_softmax_dim("log_softmax", input.dim(), _stacklevel)
    return _normalised(input, dim, dtype, True, backend, num_threads)


def _normalised(
    x: Tensor,
    dim: int,
    dtype: torch.dtype | None,
    is_log: bool,
    backend: str | None,
    num_threads: int | None,
) -> Tensor:
    check_tensors(input=x)
    if dtype is None and x.is_cuda and torch.is_autocast_enabled("cuda"):
        # as PyTorch does there, and not on the CPU
        dtype = torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else None
    if dtype is not None:
        x = x.to(dtype)
    if x.dim() == 0:
        return _normalised(x.reshape(1), dim, None, is_log, backend, num_threads).reshape(())
    if not x.numel() or has_tangent(x) or not is_eager(x):
        check_softmax_call(x, dim, backend, num_threads)
    if has_tangent(x):
        return torch.log_softmax(x, dim) if is_log else torch.softmax(x, dim)
    return _call(x, dim, is_log, backend, num_threads)
