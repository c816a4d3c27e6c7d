"""A group of torch.distributed as the channel through which ranks exchange their statistics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from fastxent.checks.processes import check_is_in_group, check_is_initialised
from fastxent.precision import Array

__all__ = ["Group"]


class Group:
    """A process group, with the calls of `fastxent.sharding.exchange.Channel`.

    Statistics stay on the device of the logits. The descriptors are the host's: they go through
    the CPU where the group has a backend for it, and through the GPU where it has only that.

    Parameters
    ----------
    group : ProcessGroup or None
        None for all processes.
    logits : object
        Of this rank. Descriptors go through the GPU that it is on, whichever is the current one.
    """

    arrays: Any = torch

    def __init__(self, group: Any, logits: Any) -> None:
        check_is_initialised(dist.is_available() and dist.is_initialized())
        self.group = group
        is_there = isinstance(logits, Tensor) and logits.is_cuda
        self.gpu: torch.device | None = logits.device if is_there else None
        self.rank = dist.get_rank(group)
        check_is_in_group(self.rank >= 0, dist.get_rank())
        self.size = dist.get_world_size(group)

    def gather_bytes(self, mine: Array) -> Array:
        """Descriptors of all ranks, (ranks, bytes)."""
        on_host = "cpu" in dist.get_backend_config(self.group)
        # a rank with wrong logits takes part too: the others wait for what it has to say
        gpu = self.gpu or torch.device("cuda")
        own = torch.from_numpy(mine).to(torch.device("cpu") if on_host else gpu)
        found = own.new_empty(self.size * own.numel())
        dist.all_gather_single(found, own, group=self.group)
        array: Array = found.cpu().numpy().reshape(self.size, -1)
        return array

    def all_max(self, numbers: Tensor) -> None:
        """Largest of each entry over the ranks, in place."""
        dist.all_reduce(numbers, dist.ReduceOp.MAX, group=self.group)

    def all_min(self, numbers: Tensor) -> None:
        """Least of each entry over the ranks, in place."""
        dist.all_reduce(numbers, dist.ReduceOp.MIN, group=self.group)

    def all_sum(self, numbers: Tensor) -> None:
        """Sum of each entry over the ranks, in place."""
        dist.all_reduce(numbers, dist.ReduceOp.SUM, group=self.group)

    def gather(self, numbers: Tensor, counts: Sequence[int]) -> list[Tensor]:
        """The numbers of every rank, of which rank r has ``counts[r]``."""
        # all ranks must hand in as many
        most = max(counts)
        own = numbers.new_zeros(most)
        own[: numbers.numel()] = numbers
        found = numbers.new_empty(most * self.size)
        dist.all_gather_single(found, own, group=self.group)
        return [rank[:count] for rank, count in zip(found.split(most), counts, strict=True)]
