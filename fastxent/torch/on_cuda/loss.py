"""The loss of tensors on a GPU: one pass, and a gradient that is computed when it is asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastxent.backends.contract import Outputs
from fastxent.device_array import DeviceArray
from fastxent.on_device.arrays import Arrays
from fastxent.on_device.loss import LossOnDevice
from fastxent.options import Options
from fastxent.side_outputs import Aux
from fastxent.torch.contract import Found
from fastxent.torch.on_cuda.arrays import settled
from fastxent.torch.on_cuda.calls import call, key_of
from fastxent.torch.settings import Settings

__all__ = ["forward", "plain_forward"]

_FLOAT64, _BOOL = np.dtype(np.float64), torch.bool


@dataclass(slots=True)
class _Later:
    """What the gradient that is computed later needs beside the tensors of autograd."""

    settings: Settings
    row_max: Tensor
    row_sum: Tensor

    def grad(self, saved: Sequence[Tensor | None], grad_output: Tensor) -> Tensor:
        """Gradient for an upstream gradient, one number or one a row."""
        settings = self.settings
        logits, target, weight, sample_weight = saved
        assert logits is not None
        inputs = _inputs(logits, target, weight, sample_weight, grad_output)
        grad = torch.empty_like(logits)

        def compute(arrays: Arrays, given: Mapping[str, Any]) -> dict[str, DeviceArray]:
            problem = _loss(arrays, given, settings).problem
            rows = problem.new_output(given["grad"]).rows
            arrays.backend.backward(problem, given["row_max"], given["row_sum"], rows)
            return {}

        tensors = {**inputs, "row_max": self.row_max, "row_sum": self.row_sum, "grad": grad}
        call(settings.backend, key_of("backward", *settings), tensors, compute)
        return grad


def plain_forward(
    logits: Tensor, target: Tensor, settings: Settings, wants_grad: bool
) -> tuple[Tensor, Tensor | None] | None:
    """No way is shorter than `forward`."""
    return None


def forward(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    sample_weight: Any,
    settings: Settings,
    *,
    grad_output: Tensor | None = None,
    wants_grad: bool = False,
    wants_target_grad: bool = False,
    wants_later: bool = False,
    out: Tensor | None = None,
    aux: Iterable[str] = (),
) -> Found:
    """Run the pass with what is asked for; `out` takes the gradient."""
    names = asked = tuple(aux) if not isinstance(aux, str) else aux
    if wants_target_grad and "target_grad" not in names:
        names = (*names, "target_grad")
    inputs = _inputs(logits, target, weight, sample_weight, grad_output)
    in_place = out is logits
    grad = None
    if wants_grad:
        grad = torch.empty_like(logits) if out is None else out.detach()

    def compute(arrays: Arrays, given: Mapping[str, Any]) -> dict[str, DeviceArray]:
        # where the gradient goes over the logits, they are checked for that
        loss = _loss(arrays, given, settings, names, arrays.first if in_place else None)
        problem, outputs = loss.problem, Outputs()
        statistics: dict[str, Any] = {}
        if wants_grad:
            place = given["logits" if in_place else "grad"]
            outputs.grad = problem.new_output(place).rows
        if wants_later:
            statistics["row_max"] = arrays.empty((problem.rows,), problem.precision.compute)
            statistics["row_sum"] = arrays.empty((problem.rows,), _FLOAT64)
            outputs.row_max, outputs.row_sum = statistics.values()
        total, asides = loss.run(outputs)
        sides = {} if asides is None else asides._asdict()
        return {
            "loss": total,
            **statistics,
            **{name: array for name, array in sides.items() if array is not None},
        }

    key = key_of("forward", *settings, wants_grad, wants_later, in_place, *names)
    tensors = {**inputs, "grad": None if in_place else grad}
    results = call(settings.backend, key, tensors, compute)
    found = Found(results.pop("loss"), grad)
    if wants_later:
        found.later = _Later(settings, results.pop("row_max"), results.pop("row_sum"))
    if results:
        _add_asides(found, Aux(**results), target)
        if found.target_grad is not None and wants_target_grad and "target_grad" in asked:
            # backward scales its own where it lies; what the caller has stays
            found.target_grad = found.target_grad.clone()
    return found


def _inputs(
    logits: Tensor | None,
    target: Tensor | None,
    weight: Tensor | None,
    sample_weight: Any,
    grad_output: Tensor | None,
) -> dict[str, Tensor | None]:
    """Tensors by name; of labels and factors the numbers lie one after the other."""
    assert target is not None
    rest = {"target": target, "weight": weight, "sample_weight": sample_weight}
    rest["grad_output"] = grad_output
    given: dict[str, Tensor | None] = {"logits": settled(logits, "input")}
    for name, tensor in rest.items():
        given[name] = tensor = settled(tensor, name)
        is_small = name != "target" or not (target.is_floating_point() or target.dtype == _BOOL)
        if tensor is not None and is_small:
            given[name] = tensor.contiguous()
    return given


def _loss(
    arrays: Arrays, given: Mapping[str, Any], settings: Settings, aux: Any = (), out: Any = None
) -> LossOnDevice:
    """The call, checked; all that comes before the pass is started."""
    named = settings._asdict()
    del named["backend"]
    num_threads = named.pop("num_threads")
    logits = given["logits"]
    options = Options(
        **named,
        weight=given.get("weight"),
        sample_weight=given.get("sample_weight"),
        axis=1 if logits.ndim > 1 else 0,
        aux=aux,
    )
    upstream = given.get("grad_output")
    return LossOnDevice(arrays, given["target"], options, num_threads, upstream, out)


def _add_asides(found: Found, asides: Aux, target: Tensor) -> None:
    found.aux = asides
    grad = asides.target_grad
    if grad is not None:
        found.target_grad = grad if target.dtype is torch.bool else grad.to(target.dtype)
