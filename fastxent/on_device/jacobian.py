"""The Jacobian products of softmax and log-softmax on a GPU."""

from __future__ import annotations

from typing import Any

from fastxent import checks
from fastxent.interchange import Home
from fastxent.jacobian import JacobianProblem
from fastxent.on_device.arrays import Arrays

__all__ = ["jacobian_product"]


def jacobian_product(
    home: Home, grad: Any, axis: Any, out: Any, backend: str | None, num_threads: Any, is_log: bool
) -> Any:
    """`fastxent.log_softmax_backward` if `is_log`, else `fastxent.softmax_backward`."""
    name, grad_name = ("log_p", "grad") if is_log else ("p", "grad_p")
    arrays = Arrays.of_call(home, name, backend)
    first: Any = arrays.first
    upstream: Any = arrays.read(grad, grad_name)
    into: Any = arrays.read_out(out)
    may_be_scalar = axis is None or (isinstance(axis, tuple) and not axis)
    checks.check_logits(first, name, may_be_scalar=may_be_scalar)
    checks.check_upstream(upstream, grad_name, first, name, None)
    axes = checks.check_axes(axis, first, may_be_empty=False, name=name)
    upstream = arrays.gathered(upstream, grad, grad_name, axes, first)
    first = arrays.gathered(first, home.like, name, axes, first)
    if into is None:
        into = arrays.empty_like(first, first.dtype)
    for array, called in ((first, name), (upstream, grad_name), (into, "out")):
        if array.shape == first.shape:
            checks.check_view(array, axes, called, first)
    problem, result = JacobianProblem.build(first, upstream, axis, num_threads, into, is_log=is_log)
    arrays.backend.softmax_backward(problem, result.rows)
    return arrays.deliver(into, out)
