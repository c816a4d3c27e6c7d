"""The mean's denominator for tensors of the CPU, where the labels are checked with it."""

from __future__ import annotations

import torch
from torch import Tensor

from fastxent.backends import pick
from fastxent.torch.on_cpu.loss import problem_of
from fastxent.torch.settings import Settings

__all__ = ["denominator"]


def denominator(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    sample_weight: Tensor | None,
    settings: Settings,
) -> tuple[Tensor, Tensor | None]:
    """Give what the sum of the losses is divided by; a bad label is an error here, so None."""
    problem = problem_of(logits, target, weight, sample_weight, settings)
    problem = problem.with_labels(pick(settings.backend, problem))
    return torch.tensor(problem.denominator, dtype=torch.float64), None
