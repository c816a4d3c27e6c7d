"""Softmax and its logarithm of tensors on a GPU, forward and backward."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fastxent import checks
from fastxent.backends.contract import Outputs
from fastxent.device_array import DeviceArray
from fastxent.jacobian import JacobianProblem
from fastxent.on_device.arrays import Arrays
from fastxent.problem import Problem
from fastxent.torch.on_cuda.arrays import settled
from fastxent.torch.on_cuda.calls import call, key_of

__all__ = ["softmax", "softmax_backward"]


def softmax(
    x: Tensor, dim: int, is_log: bool, backend: str | None, num_threads: int | None
) -> Tensor:
    """Softmax or its logarithm."""
    out = torch.empty_like(x)
    if not x.numel():
        return out

    def compute(arrays: Arrays, given: Mapping[str, Any]) -> dict[str, DeviceArray]:
        first = given["x"]
        axis = checks.check_axis(dim, checks.check_logits(first, "x"), "x")
        checks.check_view(first, (axis,), "x")
        problem = Problem.of_array(first, axis, num_threads)
        rows = problem.new_output(given["out"]).rows
        outputs = Outputs(log_proba=rows) if is_log else Outputs(proba=rows)
        arrays.backend.softmax(problem, outputs)
        return {}

    tensors = {"x": settled(x), "out": out}
    call(backend, key_of("softmax", dim, is_log, num_threads), tensors, compute)
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

    def compute(arrays: Arrays, given: Mapping[str, Any]) -> dict[str, DeviceArray]:
        first, upstream = given["result"], given["grad"]
        axis = checks.check_axis(dim, checks.check_logits(first, "result"), "result")
        checks.check_view(first, (axis,), "result")
        checks.check_view(upstream, (axis,), "grad")
        problem, placed = JacobianProblem.build(
            first, upstream, axis, num_threads, given["out"], is_log=is_log
        )
        arrays.backend.softmax_backward(problem, placed.rows)
        return {}

    key = key_of("softmax_backward", dim, is_log, num_threads)
    tensors = {"result": settled(result), "grad": settled(grad, "grad"), "out": out}
    call(backend, key, tensors, compute)
    return out
