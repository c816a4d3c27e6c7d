"""The binary loss on a GPU, alone and with its gradient."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from fastxent import checks
from fastxent.backends.contract import BinaryOutputs
from fastxent.binary import BinaryCall
from fastxent.device_array import DeviceArray
from fastxent.interchange import Home
from fastxent.on_device.arrays import Arrays

__all__ = [
    "binary_cross_entropy_with_logits",
    "binary_cross_entropy_with_logits_and_grad",
    "build",
    "run",
]

_FLOAT64 = np.dtype(np.float64)

# The names of factors in the call, and in `BinaryCall`.
_FACTORS = {"weight": "factor", "pos_weight": "ones", "grad_output": "upstream"}


def binary_cross_entropy_with_logits(
    home: Home, target: Any, options: dict[str, Any], backend: str | None
) -> Any:
    """`fastxent.binary_cross_entropy_with_logits`."""
    arrays = Arrays.of_call(home, "logits", backend)
    call = build(arrays, target, options, None)
    return arrays.give(run(arrays, call, None))


def binary_cross_entropy_with_logits_and_grad(
    home: Home, target: Any, options: dict[str, Any], backend: str | None, out: Any
) -> tuple[Any, Any]:
    """`fastxent.binary_cross_entropy_with_logits_and_grad`."""
    arrays = Arrays.of_call(home, "logits", backend)
    into: Any = arrays.read_out(out)
    call = build(arrays, target, options, into)
    grad = into
    if grad is None:
        grad = arrays.empty_like(call.logits, call.precision.storage)
    loss = run(arrays, call, grad)
    return arrays.give(loss), arrays.deliver(grad, out)


def build(arrays: Arrays, target: Any, options: dict[str, Any], out: Any) -> BinaryCall:
    """The checked call, with all arrays on the GPU."""
    first: Any = arrays.first
    there = {
        name: arrays.read(options[name], name)
        for name in _FACTORS
        if checks.is_on_device(options.get(name))
    }
    of_host = {name: None if name in there else value for name, value in options.items()}
    labels: Any = arrays.read(target, "target")
    call = BinaryCall.build(first, labels, **of_host, out=out)
    shape, compute = first.shape, call.precision.compute
    if out is not None:
        others: dict[str, Any] = {**there, "target": labels}
        checks.check_out(out, first, others, shape, call.precision.storage)
    factors: dict[str, Any] = {
        _FACTORS[name]: checks.check_element_factor_on_device(array, name, shape, compute)
        for name, array in there.items()
    }
    for field in _FACTORS.values():
        value = getattr(call, field)
        if isinstance(value, np.ndarray):
            factors[field] = _upload(arrays, value)
    return replace(call, **factors)


def _upload(arrays: Arrays, factor: Any) -> Any:
    """Copy of a factor, without the entries that broadcasting repeats."""
    whole = slice(None)
    steps = factor.strides
    distinct = factor[tuple(slice(0, 1) if step == 0 else whole for step in steps)]
    return arrays.upload(distinct).broadcast_to(factor.shape)


def run(arrays: Arrays, call: BinaryCall, grad: Any, loss: Any = None) -> Any:
    """Start the pass; the loss, reduced, or that of each element, in `loss` or new memory."""
    logits: Any = call.logits
    backend, loss_dtype = arrays.backend, call.precision.loss
    upstream: Any = call.upstream
    divisor = 1.0
    if call.reduction == "mean":
        # without elements the mean is 0 / 0
        divisor = float(logits.size) or np.nan
        upstream = _divided(arrays, upstream, divisor) if grad is not None else 1.0
    if call.reduction == "none" and loss is None:
        loss = arrays.empty_like(logits, loss_dtype)
    problem, outputs = call.problem(upstream, loss, grad, None)
    if loss is not None:
        if logits.size:
            backend.binary(problem, outputs)
        return loss
    count = backend.binary_partial_count(problem) if logits.size else 0
    partial = arrays.scratch((count,), _FLOAT64)
    if logits.size:
        backend.binary(problem, BinaryOutputs(grad=outputs.grad, partial=partial))
    total = arrays.empty((1,), loss_dtype)
    backend.finish_sum(partial, divisor, None, False, None, total)
    return total.reshape(())


def _divided(arrays: Arrays, upstream: Any, divisor: float) -> Any:
    """The upstream gradient of the sum of the elements."""
    if isinstance(upstream, float):
        return upstream / divisor
    # made there: a copy of a number of the host could not be captured in a graph
    share = arrays.scratch((1,), _FLOAT64)
    arrays.backend.row_factors((1.0 / divisor,), share)
    if upstream.size > 1 and not any(upstream.strides):
        one = DeviceArray(upstream.address, (1, 1), upstream.dtype, arrays.place, upstream.owner)
        return _divided(arrays, one, divisor).reshape(()).broadcast_to(upstream.shape)
    result = arrays.scratch(upstream.shape, upstream.dtype)
    if upstream.size:
        flat = upstream.reshape(1, -1) if upstream.is_dense else upstream
        kind = upstream.dtype.name
        arrays.backend.scale(flat, kind, share, result.reshape(flat.shape))
    return result
