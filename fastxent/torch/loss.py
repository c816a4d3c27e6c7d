"""The functional loss: PyTorch's arguments, then whoever runs the call."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.nn import _reduction

from fastxent import checks
from fastxent.torch import eager, formula, operators
from fastxent.torch.modes import has_tangent, is_eager, needs_grad
from fastxent.torch.settings import Settings

__all__ = ["cross_entropy"]

# What the short way of `fastxent.shortcut` takes for granted.
_PLAIN = (0.0, "mean", None, 0.0, None, 1.0, "nan")


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int | None = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    *,
    sample_weight: Tensor | None = None,
    normalizer: Any = None,
    z_loss: float = 0.0,
    softcap: float | None = None,
    logit_scale: float = 1.0,
    all_ignored: str = "nan",
    aux: Iterable[str] = (),
    memory: str = "fast",
    in_place: bool = False,
    backend: str | None = None,
    num_threads: int | None = None,
) -> Any:
    """DOC"""
    if size_average is not None or reduce is not None:
        reduction = _reduction.legacy_get_string(size_average, reduce)
    if memory != "fast" or in_place:
        checks.check_memory(memory, in_place)
    options = label_smoothing, reduction, normalizer, z_loss, softcap, logit_scale, all_ignored
    has_factors = weight is not None or sample_weight is not None
    if has_factors:
        _check_factors(weight, sample_weight)
    if not is_eager(input, target) or has_tangent(input, target):
        checks.check_traceable(in_place, aux)
        return _traced(
            input,
            target,
            weight,
            sample_weight,
            _settings(options, ignore_index, backend, num_threads),
            memory,
        )
    call = eager.Call(
        Settings(ignore_index, *options, backend, num_threads),
        is_plain=not (has_factors or aux) and options == _PLAIN,
        weight=weight,
        sample_weight=sample_weight,
        aux=aux,
        memory=memory,
        in_place=in_place,
    )
    loss = eager.run(input, target, call)
    return (loss, call.found_aux) if call.found_aux is not None and aux else loss


def _check_factors(weight: Any, sample_weight: Any) -> None:
    for factor, name in ((weight, "weight"), (sample_weight, "sample_weight")):
        if factor is not None:
            checks.check_tensor(isinstance(factor, Tensor), factor, name)
            checks.check_device(factor.device.type, name)
            checks.check_no_gradient(factor.requires_grad, name)


def _settings(
    options: tuple[Any, ...], ignore_index: Any, backend: str | None, num_threads: Any
) -> Settings:
    """The same options as the plain numbers that an operator takes."""
    smoothing, reduction, normalizer, z_loss, softcap, logit_scale, all_ignored = options
    return Settings(
        ignore_index,
        float(smoothing),
        reduction,
        None if normalizer is None else float(normalizer),
        float(z_loss),
        None if softcap is None else float(softcap),
        float(logit_scale),
        all_ignored,
        backend,
        num_threads,
    )


def _traced(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    sample_weight: Tensor | None,
    settings: Settings,
    memory: str,
) -> Tensor:
    for tensor, name in ((input, "input"), (target, "target")):
        checks.check_tensor(isinstance(tensor, Tensor), tensor, name)
        checks.check_device(tensor.device.type, name)
    if has_tangent(input, target):
        return formula.loss(input, target, weight, sample_weight, settings)
    is_fused = operators.is_fused(input, settings.reduction, memory)
    loss, _, _ = operators.cross_entropy(
        *(input, target, weight, sample_weight, None, settings),
        wants_grad=is_fused and needs_grad(input),
        wants_target_grad=is_fused and needs_grad(target),
    )
    return loss
