"""The loss of tensors on a GPU: one pass, and a gradient that is computed when it is asked for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from fastxent.backends.contract import Outputs
from fastxent.on_device.cross_entropy import LossOnDevice
from fastxent.options import Options
from fastxent.side_outputs import Aux
from fastxent.torch.arrays import class_axis
from fastxent.torch.contract import Found
from fastxent.torch.on_cuda.arrays import arrays_of, plain, whole
from fastxent.torch.settings import Settings

__all__ = ["forward", "plain_forward"]

_FLOAT64 = np.dtype(np.float64)


@dataclass(slots=True)
class _Later:
    """What the gradient that is computed later needs beside the tensors of autograd."""

    settings: Settings
    row_max: Any
    row_sum: Any

    def grad(self, saved: Sequence[Tensor | None], grad_output: Tensor) -> Tensor:
        """Gradient for an upstream gradient, one number or one a row."""
        logits, target, weight, sample_weight = saved
        assert logits is not None
        assert target is not None
        call = _call(logits, target, weight, sample_weight, self.settings, grad_output)
        grad = torch.empty_like(logits)
        rows = _rows(call, grad)
        call.arrays.backend.backward(call.problem, self.row_max, self.row_sum, rows)
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
    call = _call(logits, target, weight, sample_weight, settings, grad_output, out, names)
    arrays, problem = call.arrays, call.problem
    outputs: Any = Outputs()
    grad = None
    if wants_grad:
        grad = torch.empty_like(logits) if out is None else plain(out)
        outputs.grad = _rows(call, grad)
    if wants_later:
        outputs.row_max = arrays.empty((problem.rows,), problem.precision.compute)
        outputs.row_sum = arrays.empty((problem.rows,), _FLOAT64)
    loss, asides = call.run(outputs)
    found = Found(whole(arrays.give(loss)), grad)
    if wants_later:
        found.later = _Later(settings, outputs.row_max, outputs.row_sum)
    if asides is not None:
        _add_asides(found, arrays.give_each(asides), target)
        if found.target_grad is not None and wants_target_grad and "target_grad" in asked:
            # backward scales its own where it lies; what the caller has stays
            found.target_grad = found.target_grad.clone()
    return found


def _call(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    sample_weight: Any,
    settings: Settings,
    grad_output: Tensor | None = None,
    out: Tensor | None = None,
    aux: Any = (),
) -> LossOnDevice:
    options = settings._asdict()
    backend, num_threads = options.pop("backend"), options.pop("num_threads")
    arrays = arrays_of(logits, "logits", backend)
    return LossOnDevice(
        arrays,
        plain(target),
        Options(
            **options,
            weight=plain(weight),
            sample_weight=plain(sample_weight),
            axis=class_axis(logits),
            aux=aux,
        ),
        num_threads,
        plain(grad_output),
        None if out is None else arrays.read(plain(out), "out"),
    )


def _rows(call: LossOnDevice, grad: Tensor) -> Any:
    """What the backend fills of a gradient."""
    return call.problem.new_output(cast("Any", call.arrays.read(grad, "grad"))).rows


def _add_asides(found: Found, asides: Aux, target: Tensor) -> None:
    found.aux = asides
    grad = asides.target_grad
    if grad is not None:
        found.target_grad = grad if target.dtype is torch.bool else grad.to(target.dtype)
