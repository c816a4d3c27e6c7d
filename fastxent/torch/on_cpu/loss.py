"""The loss of tensors: a Problem of their views, the kernels, and tensors of what comes back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastxent.backends import pick
from fastxent.backends.contract import Backend, Outputs
from fastxent.precision import Array
from fastxent.problem import Problem
from fastxent.shortcut import mean_loss
from fastxent.side_outputs import Aux, loss_and_aux
from fastxent.spare import Spare
from fastxent.torch.arrays import array_of, class_axis, factor_of, storage_of, team, tensor_of
from fastxent.torch.contract import Found
from fastxent.torch.settings import Settings

__all__ = ["empty_cache", "forward", "plain_forward", "problem_of"]


# From this size on gradients lie in memory of our own, which the next call takes again once they
# are gone. New pages would double the time of a pass; NumPy's are huge ones, PyTorch's are not.
_LARGE = 1 << 22
_spare = Spare()


@dataclass(slots=True)
class _Later:
    """What the gradient that is computed later needs beside the tensors of autograd."""

    settings: Settings
    backend: Backend
    row_max: Array
    row_sum: Array

    def grad(self, saved: Sequence[Tensor | None], grad_output: Tensor) -> Tensor:
        """Gradient for an upstream gradient, one number or one a row."""
        logits, target, weight, sample_weight = saved
        assert logits is not None
        assert target is not None
        problem = problem_of(logits, target, weight, sample_weight, self.settings)
        problem = problem.with_labels(self.backend)
        upstream = array_of(grad_output)
        grad = problem.later_grad(self.backend, self.row_max, self.row_sum, upstream)
        return tensor_of(grad, storage_of(logits))


def plain_forward(
    logits: Tensor, target: Tensor, settings: Settings, wants_grad: bool
) -> tuple[Tensor, Tensor | None] | None:
    """Mean loss without options, the short way; None where anything is out of the ordinary."""
    if logits.dim() != 2 or logits.dtype.itemsize < 4 or target.is_floating_point():
        return None
    if logits.layout is not torch.strided or target.layout is not torch.strided or logits.is_neg():
        return None
    logits = logits.detach()
    given = logits.numpy()
    rows, classes = given.shape
    grad = out = None
    if wants_grad and given.nbytes < _LARGE:
        # the end of a tensor that NumPy allocated costs 1.5 us more
        grad = torch.empty_like(logits)
        out = grad.numpy()
    elif wants_grad:
        out = _spare.array((rows, classes), given.dtype)
    plain = mean_loss(
        given,
        target.numpy(),
        settings.ignore_index,
        settings.backend,
        team(settings.num_threads, rows, given.nbytes),
        wants_grad,
        out,
    )
    if plain is None:
        return None
    loss, array = plain
    if wants_grad and grad is None:
        grad = torch.from_numpy(array)
    return torch.from_numpy(np.array(loss)), grad


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
    storage = storage_of(logits)
    names = asked = tuple(aux) if not isinstance(aux, str) else aux
    if wants_target_grad and "target_grad" not in names:
        names = (*names, "target_grad")
    given = array_of(logits, storage)
    into = None if out is None else array_of(out, storage)
    if wants_grad and out is None and given.nbytes >= _LARGE and given.flags.c_contiguous:
        into = _spare.array(given.shape, given.dtype)
    problem = problem_of(
        *(logits, target, weight, sample_weight, settings),
        grad_output=None if grad_output is None else array_of(grad_output),
        out=into,
        aux=names,
    )
    chosen = pick(settings.backend, problem)
    problem = problem.with_labels(chosen)
    outputs = Outputs()
    if wants_later:
        outputs.row_max = np.empty(problem.rows, problem.precision.compute)
        outputs.row_sum = np.empty(problem.rows)
    grad = problem.new_output(into) if wants_grad else None
    if grad is not None:
        outputs.grad = grad.rows
    loss, asides = loss_and_aux(problem, chosen, outputs)
    found = Found(tensor_of(loss))
    if grad is not None:
        found.grad = tensor_of(grad.deliver(), storage)
    if outputs.row_max is not None and outputs.row_sum is not None:
        found.later = _Later(settings, chosen, outputs.row_max, outputs.row_sum)
    if asides is not None:
        _add_asides(found, asides, target, storage)
        if found.target_grad is not None and wants_target_grad and "target_grad" in asked:
            # backward scales its own where it lies; what the caller has stays
            found.target_grad = found.target_grad.clone()
    return found


def problem_of(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    sample_weight: Any,
    settings: Settings,
    **more: Any,
) -> Problem:
    """Check a call; its labels are not looked at yet."""
    storage = storage_of(logits)
    options = settings._asdict()
    del options["backend"]
    options["num_threads"] = _team(logits, settings)
    return Problem.build(
        array_of(logits, storage),
        array_of(target, storage, "target"),
        weight=factor_of(weight),
        sample_weight=factor_of(sample_weight),
        axis=class_axis(logits),
        storage=storage,
        **more,
        **options,
    )


def empty_cache() -> None:
    """Give the memory back that is kept for the next gradient.

    A gradient of 4 MB or more lies in memory that is kept when the gradient is gone, for the next
    call with logits of that size: new memory would double the time of the call. One piece is kept
    at most. With ``memory="low"`` none is taken from it.

    Examples
    --------
    >>> import fastxent.torch
    >>> fastxent.torch.empty_cache()
    """
    _spare.clear()


def _add_asides(found: Found, asides: Aux, target: Tensor, storage: str | None) -> None:
    tensors = asides._asdict()
    for name, values in tensors.items():
        if values is not None and name != "target_grad":
            tensors[name] = tensor_of(values)
    if asides.target_grad is not None:
        is_bits = storage is not None and target.dtype is torch.bfloat16
        grad = tensor_of(asides.target_grad, storage if is_bits else None)
        tensors["target_grad"] = grad
        found.target_grad = grad if target.dtype is torch.bool else grad.to(target.dtype)
    found.aux = Aux(**tensors)


def _team(logits: Tensor, settings: Settings) -> int:
    classes = logits.shape[class_axis(logits)] if logits.dim() else 1
    rows = logits.numel() // max(classes, 1)
    return team(settings.num_threads, rows, logits.numel() * logits.itemsize)
