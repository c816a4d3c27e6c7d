"""The tensors and options of one call of the loss behind a linear layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["NOTHING", "Chunking", "LinearArguments", "LinearFound", "Wants"]


class Wants(NamedTuple):
    """Which gradients a call computes."""

    input: bool = False
    linear_weight: bool = False
    linear_bias: bool = False
    target: bool = False

    @property
    def through_logits(self) -> bool:
        """Whether the gradient of the logits is needed."""
        return self.input or self.linear_weight or self.linear_bias


NOTHING = Wants()


class Chunking(NamedTuple):
    """How the rows are gone through.

    Attributes
    ----------
    memory_budget : float or None
        Bytes, as the caller gave it.
    grad_filter : float
        0 for none.
    chunk_rows : int or None
        Rows of a chunk that the caller asked for.
    aspect_ratio : int or None
        The N of PyTorch's ``chunking_method="aspect_ratio:N"``.
    later : sequence of bool
        `Wants` of a call that follows in backward, whose memory is planned with this one's: no
        error in the middle of backward. Empty where none follows.
    """

    memory_budget: float | None = None
    grad_filter: float = 0.0
    chunk_rows: int | None = None
    aspect_ratio: int | None = None
    later: Sequence[bool] = ()


class LinearArguments(NamedTuple):
    """The tensors of a call, whose `input` has shape (N, D) and `linear_weight` (C, d1, ..., D)."""

    input: Tensor
    linear_weight: Tensor
    target: Tensor
    linear_bias: Tensor | None = None
    weight: Tensor | None = None
    sample_weight: Tensor | None = None

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of logits, losses and sums: at least float32."""
        given = self.input, self.linear_weight, self.linear_bias
        is_wide = any(one is not None and one.dtype is torch.float64 for one in given)
        return torch.float64 if is_wide else torch.float32

    @property
    def shape_of_row(self) -> torch.Size:
        """Shape of the logits of one row: (C, d1, ...)."""
        return self.linear_weight.shape[:-1]

    @property
    def rows_shape(self) -> torch.Size:
        """Shape of the losses."""
        return self.input.shape[:-1] + self.linear_weight.shape[1:-1]

    def stand_in(self) -> Tensor:
        """One number that has shape and dtype of all logits."""
        one = self.input.detach().new_empty((), dtype=self.dtype)
        return one.expand(self.input.shape[:-1] + self.shape_of_row)

    @property
    def is_soft(self) -> bool:
        """Whether the targets are probabilities."""
        return self.target.is_floating_point() or self.target.dtype is torch.bool

    def target_of_shape(self) -> Tensor:
        """Labels, or one number with the shape of the probabilities: where none is looked at."""
        if not self.is_soft:
            return self.target
        return self.target.new_zeros((), dtype=torch.float32).expand(self.target.shape)

    def logits(self) -> Tensor:
        """All logits at once, in PyTorch's own operators."""
        rows = self.linear_weight.to(self.dtype)
        bias = None if self.linear_bias is None else self.linear_bias.to(self.dtype).reshape(-1)
        flat = functional.linear(self.input.to(self.dtype), rows.reshape(-1, rows.shape[-1]), bias)
        return flat.reshape(self.input.shape[:-1] + self.shape_of_row)

    def detached(self) -> LinearArguments:
        """The same numbers without a graph."""
        return LinearArguments(*(None if one is None else one.detach() for one in self))

    @property
    def positions(self) -> int:
        """Number of losses of one row."""
        return math.prod(self.shape_of_row[1:])

    @property
    def width(self) -> int:
        """Number of logits of one row."""
        return math.prod(self.shape_of_row)


@dataclass(slots=True)
class LinearFound:
    """What a call gives; None for what was not asked."""

    loss: Tensor
    input: Tensor | None = None
    linear_weight: Tensor | None = None
    linear_bias: Tensor | None = None
    target: Tensor | None = None
    aux: object = None
