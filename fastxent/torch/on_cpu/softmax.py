"""Softmax and its logarithm of tensors, forward and backward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastxent.backends import pick
from fastxent.backends.contract import Outputs
from fastxent.jacobian import JacobianProblem
from fastxent.problem import Problem
from fastxent.torch.arrays import array_of, storage_of, team, tensor_of

__all__ = ["softmax", "softmax_backward"]


def _team(x: Tensor, dim: int, num_threads: int | None) -> int:
    is_axis = -x.dim() <= dim < x.dim()  # what is wrong with it, the door says
    rows = x.numel() // x.shape[dim] if is_axis else 1
    return team(num_threads, rows, x.numel() * x.itemsize)


def _place(x: Tensor, storage: str | None) -> Any:
    """Where a result goes that is laid out as the fake kernel says; None for new memory."""
    return None if x.is_contiguous() else array_of(torch.empty_like(x), storage)


def softmax(
    x: Tensor, dim: int, is_log: bool, backend: str | None, num_threads: int | None
) -> Tensor:
    """Softmax or its logarithm."""
    storage = storage_of(x)
    if not x.numel():
        return torch.empty_like(x)
    array, out = array_of(x, storage), _place(x, storage)
    problem = Problem.of_array(array, dim, _team(x, dim, num_threads), out, storage)
    result = problem.new_output(out)
    outputs = Outputs(log_proba=result.rows) if is_log else Outputs(proba=result.rows)
    pick(backend, problem).softmax(problem, outputs)
    return tensor_of(result.deliver(), storage)


def softmax_backward(
    grad: Tensor,
    result: Tensor,
    dim: int,
    is_log: bool,
    backend: str | None,
    num_threads: int | None,
) -> Tensor:
    """Gradient from that of the result."""
    storage = storage_of(result)
    if not result.numel():
        return torch.empty_like(result)
    problem, into = JacobianProblem.build(
        *(array_of(result, storage), array_of(grad, storage), dim),
        _team(result, dim, num_threads),
        _place(result, storage),
        is_log=is_log,
        storage=storage,
    )
    pick(backend).softmax_backward(problem, into.rows)
    return tensor_of(into.deliver(), storage)
