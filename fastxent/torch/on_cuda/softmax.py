"""Softmax and its logarithm of tensors on a GPU, forward and backward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastxent import checks
from fastxent.backends.contract import Outputs
from fastxent.device_array import DeviceArray
from fastxent.jacobian import JacobianProblem
from fastxent.on_device.arrays import Arrays
from fastxent.problem import Problem
from fastxent.torch.on_cuda.arrays import plain, settled
from fastxent.torch.on_cuda.calls import call, key_of

__all__ = ["softmax", "softmax_backward"]


def softmax(
    x: Tensor, dim: int, is_log: bool, backend: str | None, num_threads: int | None
) -> Tensor:
    """Softmax or its logarithm."""
    out = torch.empty_like(x)
    if not x.numel():
        return out
    given = settled(x)

    def compute(arrays: Arrays) -> dict[str, DeviceArray]:
        first: Any = arrays.first
        into: Any = arrays.read(out, "out")
        axis = checks.check_axis(dim, checks.check_logits(first, "x"), "x")
        checks.check_view(first, (axis,), "x")
        problem = Problem.of_array(first, axis, num_threads)
        rows = problem.new_output(into).rows
        outputs = Outputs(log_proba=rows) if is_log else Outputs(proba=rows)
        arrays.backend.softmax(problem, outputs)
        return {}

    call(backend, "x", key_of("softmax", dim, is_log, num_threads), (given, out), compute)
    return out


def softmax_backward(
    grad: Tensor,
    result: Tensor,
    dim: int,
    is_log: bool,
    backend: str | None,
    num_threads: int | None,
) -> Tensor:
    """Gradient from that of the result."""
    out = torch.empty_like(result)
    if not result.numel():
        return out
    given, upstream = settled(result), settled(grad)

    def compute(arrays: Arrays) -> dict[str, DeviceArray]:
        first: Any = arrays.first
        factor: Any = arrays.read(plain(upstream), "grad")
        axis = checks.check_axis(dim, checks.check_logits(first, "result"), "result")
        checks.check_view(first, (axis,), "result")
        checks.check_view(factor, (axis,), "grad")
        into: Any = arrays.read(out, "out")
        problem, placed = JacobianProblem.build(
            first, factor, axis, num_threads, into, is_log=is_log
        )
        arrays.backend.softmax_backward(problem, placed.rows)
        return {}

    key = key_of("softmax_backward", dim, is_log, num_threads)
    call(backend, "result", key, (given, upstream, out), compute)
    return out
