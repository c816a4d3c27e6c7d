"""The losses of a trial by PyTorch in float64, and where fastxent differs on purpose."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from fastxent import api
from fastxent.cases import Case
from fastxent.cases.recipe import ROWS_WITHOUT_SOFTMAX
from fastxent.comparison import Comparison, each, error_of, largest, least_scale_of_grad
from fastxent.trials import Trial, binary

__all__ = ["DIFFERENCES", "FUNCTIONS", "compare", "difference"]

functional = torch.nn.functional
FUNCTIONS = ("loss", "binary")  # of which PyTorch has the options
MASKED = ("minus-inf", "masked-block")
# PyTorch's float64 has roundings too: it takes exp(z - lse), and lse is rounded to its own size;
# and it adds up the mass of a row's classes one after the other.
OWN_ROUNDINGS = 8
SPECIAL = (*MASKED, *ROWS_WITHOUT_SOFTMAX)


def _may_ignore(case: Case) -> bool:
    """Whether a row can have the label that is ignored."""
    if case.soft or case.ignore_index is None:
        return False
    return case.labels != "hard" or 0 <= case.ignore_index < case.classes


def _may_weigh_nothing(case: Case) -> bool:
    """Whether the mean's denominator can be 0."""
    nothing = case.normalizer == 0 or case.weight in ("some-zero", "all-zero")
    return case.reduction == "mean" and (nothing or _may_ignore(case) or 0 in case.shape)


# All known differences, as docs/design.md tells them: the trials that they can show in.
DIFFERENCES: dict[str, Callable[[Trial], bool]] = {
    "a masked class without mass costs nothing, where PyTorch has 0 * inf = NaN": lambda trial: (
        trial.case.logits in MASKED
        and (trial.case.soft or trial.case.weight != "none" or trial.case.label_smoothing > 0)
    ),
    "a soft cap leaves a masked class masked, and does not make it the lowest logit": (
        lambda trial: trial.case.softcap is not None and trial.case.logits in SPECIAL
    ),
    "a row whose label is ignored is not read, whatever it holds": lambda trial: (
        trial.function == "loss" and trial.case.logits in SPECIAL and _may_ignore(trial.case)
    ),
    "a mean over nothing has the gradient 0, and the loss 0 where that is asked for": (
        lambda trial: trial.function == "loss" and _may_weigh_nothing(trial.case)
    ),
    "a binary target's side without mass costs nothing, where PyTorch has 0 * inf = NaN": (
        lambda trial: trial.function == "binary" and trial.case.logits in SPECIAL
    ),
}


def difference(trial: Trial) -> str | None:
    """Name the known difference that a trial may show; None where there is none."""
    return next((text for text, shows in DIFFERENCES.items() if shows(trial)), None)


def compare(trial: Trial, allowed: Sequence[Comparison]) -> list[Comparison]:
    """Hold loss and gradient against PyTorch's in float64.

    `allowed` are the comparisons of the same two with the reference: their tolerance counts here.
    """
    case = trial.case
    runtime: dict[str, Any] = {"backend": trial.backend, "num_threads": case.num_threads}
    if trial.function == "binary":
        logits, target, options = binary.arguments(case, trial.dtype)
        truths = _binary(logits, target, **options)
        compute = api.binary_cross_entropy_with_logits_and_grad
        results = compute(logits, target, **options, **runtime)
        share = 1 / max(1, logits.size) if case.reduction == "mean" else 1.0
    else:
        logits, target, options = case.arguments(trial.dtype)
        truths = _cross_entropy(logits, target, case, **options)
        results = api.cross_entropy_and_grad(logits, target, **options, **runtime)
        share = least_scale_of_grad(logits, target, options)
    scales = (each, lambda grads: max(largest(grads), share))
    epsilon = float(np.finfo(np.float64 if trial.dtype == "float64" else np.float32).eps)
    more = np.finfo(np.float64).eps * (OWN_ROUNDINGS * _size(logits) + case.classes)
    return [
        Comparison(
            f"{one.name} of PyTorch",
            error_of(result, truth, scale, epsilon),
            one.tolerance + more,
        )
        for one, result, truth, scale in zip(allowed, results, truths, scales, strict=False)
    ]


@np.errstate(invalid="ignore")
def _size(logits: Any) -> float:
    found = np.abs(np.asarray(logits).astype(np.float64))
    return float(found[np.isfinite(found)].max(initial=1))


@np.errstate(invalid="ignore")  # a signalling NaN, made quiet
def _double(array: Any) -> torch.Tensor:
    return torch.tensor(np.asarray(array).astype(np.float64))


def _cross_entropy(
    logits: Any,
    target: Any,
    case: Case,
    *,
    weight: Any = None,
    sample_weight: Any = None,
    grad_output: Any = 1.0,
    **_: Any,
) -> tuple[np.ndarray, np.ndarray]:
    x = _double(logits).requires_grad_()
    class_axis = case.axis % x.ndim
    place = min(1, x.ndim - 1)  # where PyTorch has the classes
    z = case.logit_scale * x.movedim(class_axis, place)
    if case.softcap is not None:
        z = case.softcap * torch.tanh(z / case.softcap)
    w = None if weight is None else _double(weight)
    live = torch.ones(case.leading, dtype=torch.bool)
    y: torch.Tensor
    if case.soft:
        y = _double(target).movedim(class_axis, place)
    else:
        ignored = np.asarray(case.ignore_index is not None and target == case.ignore_index)
        y = torch.tensor(np.where(ignored, -100, np.where(ignored, 0, target).astype(np.int64)))
        live = torch.tensor(np.broadcast_to(~ignored, case.leading).copy())
    options: dict[str, Any] = {"weight": w, "label_smoothing": case.label_smoothing}
    plain = sample_weight is None and case.normalizer is None and not case.z_loss
    if plain:
        loss = functional.cross_entropy(z, y, reduction=case.reduction, **options)
    else:
        losses = functional.cross_entropy(z, y, reduction="none", **options)
        if case.z_loss:
            squares = case.z_loss * torch.logsumexp(z, dim=place) ** 2
            losses = losses + torch.where(live, squares, 0.0)
        s = torch.ones(case.leading, dtype=torch.float64)
        if sample_weight is not None:
            s = _double(sample_weight)
            losses = losses * s
        loss = losses if case.reduction == "none" else losses.sum()
        if case.reduction == "mean":
            mass = s * live if w is None or case.soft else s * w[y.clamp(min=0)] * live
            loss = loss / (mass.sum() if case.normalizer is None else case.normalizer)
    loss.sum().backward()
    assert x.grad is not None
    upstream = np.asarray(grad_output, np.float64)
    if upstream.ndim:
        upstream = np.expand_dims(upstream, class_axis)
    return loss.detach().numpy(), x.grad.numpy() * upstream


def _binary(
    logits: Any,
    target: Any,
    *,
    weight: Any = None,
    pos_weight: Any = None,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    grad_output: Any = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    x = _double(logits).requires_grad_()
    y = _double(target) * (1 - label_smoothing) + label_smoothing / 2
    factors = {"weight": weight, "pos_weight": pos_weight}
    given = {name: _double(one) for name, one in factors.items() if one is not None}
    loss = functional.binary_cross_entropy_with_logits(x, y, reduction=reduction, **given)
    loss.sum().backward()
    assert x.grad is not None
    return loss.detach().numpy(), x.grad.numpy() * np.asarray(grad_output, np.float64)
