"""The loss of tensors on a GPU: one pass, and a gradient that is computed when it is asked for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fastxent.backends.contract import Outputs
from fastxent.device_array import DeviceArray
from fastxent.on_device.arrays import Arrays
from fastxent.on_device.cross_entropy import LossOnDevice
from fastxent.options import Options
from fastxent.side_outputs import Aux
from fastxent.torch.arrays import class_axis
from fastxent.torch.contract import Found
from fastxent.torch.on_cuda.arrays import plain, settled
from fastxent.torch.on_cuda.calls import call, key_of
from fastxent.torch.settings import Settings

__all__ = ["forward", "plain_forward"]

_FLOAT64 = np.dtype(np.float64)


class _Inputs(NamedTuple):
    """The tensors of a call."""

    logits: Tensor
    target: Tensor
    weight: Tensor | None
    sample_weight: Any
    grad_output: Tensor | None

    @classmethod
    def of(cls, *tensors: Any) -> _Inputs:
        """Tensors whose memory holds their numbers: of labels and factors one after the other."""
        logits, target, *factors = map(settled, tensors, ("input", *cls._fields[1:]))
        return cls(
            logits,
            target if _are_probabilities(target) else target.contiguous(),
            *(None if factor is None else factor.contiguous() for factor in factors),
        )

    def build(
        self, arrays: Arrays, settings: Settings, aux: Any = (), out: DeviceArray | None = None
    ) -> LossOnDevice:
        """The call, checked; all that comes before the pass is started."""
        named = settings._asdict()
        del named["backend"]
        num_threads = named.pop("num_threads")
        factors = {"weight": plain(self.weight), "sample_weight": plain(self.sample_weight)}
        options = Options(**named, **factors, axis=class_axis(self.logits), aux=aux)
        target, grad_output = plain(self.target), plain(self.grad_output)
        return LossOnDevice(arrays, target, options, num_threads, grad_output, out)


@dataclass(slots=True)
class _Later:
    """What the gradient that is computed later needs beside the tensors of autograd."""

    settings: Settings
    row_max: Tensor
    row_sum: Tensor

    def grad(self, saved: Sequence[Tensor | None], grad_output: Tensor) -> Tensor:
        """Gradient for an upstream gradient, one number or one a row."""
        inputs = _Inputs.of(*saved, grad_output)
        grad, settings = torch.empty_like(inputs.logits), self.settings

        def compute(arrays: Arrays) -> dict[str, DeviceArray]:
            loss = inputs.build(arrays, settings)
            row_max, row_sum = (arrays.read(one, "row") for one in (self.row_max, self.row_sum))
            rows = _rows(loss, grad)
            arrays.backend.backward(loss.problem, _any(row_max), _any(row_sum), rows)
            return {}

        tensors = *inputs, self.row_max, self.row_sum, grad
        call(settings.backend, "logits", key_of("backward", *settings), tensors, compute)
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
    inputs = _Inputs.of(logits, target, weight, sample_weight, grad_output)
    in_place = out is logits
    grad = None
    if wants_grad:
        grad = torch.empty_like(inputs.logits) if out is None else out.detach()

    def compute(arrays: Arrays) -> dict[str, DeviceArray]:
        # where the gradient goes over the logits, they are checked for that
        loss = inputs.build(arrays, settings, names, arrays.first if in_place else None)
        problem, outputs = loss.problem, Outputs()
        statistics: dict[str, DeviceArray] = {}
        if grad is not None:
            outputs.grad = _rows(loss, grad)
        if wants_later:
            statistics["row_max"] = arrays.empty((problem.rows,), problem.precision.compute)
            statistics["row_sum"] = arrays.empty((problem.rows,), _FLOAT64)
            outputs.row_max, outputs.row_sum = map(_any, statistics.values())
        total, asides = loss.run(outputs)
        sides = {} if asides is None else asides._asdict()
        given = {name: array for name, array in sides.items() if array is not None}
        return {"loss": total, **statistics, **given}

    key = key_of("forward", *settings, wants_grad, wants_later, in_place, *names)
    tensors = *inputs, None if in_place else grad
    results = call(settings.backend, "logits", key, tensors, compute)
    found = Found(results.pop("loss"), grad)
    if wants_later:
        found.later = _Later(settings, results.pop("row_max"), results.pop("row_sum"))
    if results:
        _add_asides(found, Aux(**results), target)
        if found.target_grad is not None and wants_target_grad and "target_grad" in asked:
            # backward scales its own where it lies; what the caller has stays
            found.target_grad = found.target_grad.clone()
    return found


def _are_probabilities(target: Tensor) -> bool:
    return target.is_floating_point() or target.dtype is torch.bool


def _any(array: Any) -> Any:
    return array


def _rows(loss: LossOnDevice, grad: Tensor) -> Any:
    """What the backend fills of a gradient."""
    return loss.problem.new_output(_any(loss.arrays.read(grad, "grad"))).rows


def _add_asides(found: Found, asides: Aux, target: Tensor) -> None:
    found.aux = asides
    grad = asides.target_grad
    if grad is not None:
        found.target_grad = grad if target.dtype is torch.bool else grad.to(target.dtype)
