"""One call over the classes of a group, as autograd runs it."""

from __future__ import annotations

import functools
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastxent import api
from fastxent.backends import pick_on_device
from fastxent.checks.processes import (
    check_first_derivative,
    check_mesh_group,
    check_placements,
    check_runs_eagerly,
    check_target_placements,
)
from fastxent.checks.torch import check_no_gradient
from fastxent.options import Options
from fastxent.precision import Array
from fastxent.sharding.agreement import Shards
from fastxent.sharding.engine import Arguments, agreed, whole_stats
from fastxent.sharding.stats import ShardStats
from fastxent.side_outputs import Aux
from fastxent.torch.arrays import array_of, class_axis, factor_of, storage_of
from fastxent.torch.devices import check_tensors, is_on_gpu
from fastxent.torch.modes import has_tangent, is_batched, is_eager
from fastxent.torch.process_group import Group

__all__ = ["ShardCall", "group_of"]

_OF_STATS = ("weight", "ignore_index", "label_smoothing", "softcap", "logit_scale", "axis", "aux")
_OF_LOGITS = ("softcap", "logit_scale")


def _stand_in(tensor: Tensor, storage: str | None, name: str) -> Array:
    """An array of zeros without memory, of the shape and dtype of a tensor on a GPU."""
    zero = array_of(torch.zeros((), dtype=tensor.dtype), storage, name)
    return np.broadcast_to(zero, tuple(tensor.shape))


def _stand_in_of_factor(factor: Any) -> Any:
    return np.zeros(tuple(factor.shape))


@dataclass(slots=True)
class ShardCall:
    """One call: its arguments beside logits and target, and what backward needs."""

    options: Options
    merge: Any
    backend: Any
    num_threads: Any
    ranks: Group
    shards: Shards | None = None
    stats: ShardStats | None = None
    found_aux: Aux | None = None

    def run(self, logits: Any, target: Any, group: Any) -> Tensor:
        """The loss, with a graph where one is needed; `group` is the caller's."""
        local: list[Any] = []

        def read() -> Arguments:
            local.extend(_local_parts(logits, target, group))
            return self._read(*local)

        self.shards = agreed(read, self.merge, self.ranks)
        loss: Tensor = _VocabParallel.apply(*local, self)
        return loss

    def _read(self, logits: Any, target: Any) -> Arguments:
        """Look at the arguments, and settle the options."""
        options = self.options
        factors = {"weight": options.weight, "sample_weight": options.sample_weight}
        given = {name: factor for name, factor in factors.items() if factor is not None}
        check_tensors(local_logits=logits, target=target, **given)
        check_runs_eagerly(is_eager(logits, target) and not has_tangent(logits, target))
        for name, factor in given.items():
            check_no_gradient(factor.requires_grad, name)
        check_no_gradient(target.requires_grad, "target")
        normalizer = options.normalizer
        if isinstance(normalizer, Tensor):
            check_no_gradient(normalizer.requires_grad, "normalizer")
            normalizer = normalizer.item()
        self.options = options._replace(normalizer=normalizer, axis=class_axis(logits))
        storage = storage_of(logits)
        has_values = not is_on_gpu(logits)
        if not has_values:
            pick_on_device(self.backend)
        read, factor = (array_of, factor_of) if has_values else (_stand_in, _stand_in_of_factor)
        return Arguments(
            read(logits, storage, "local_logits"),
            read(target, storage, "target"),
            self.options._replace(**{name: factor(one) for name, one in given.items()}),
            has_values=has_values,
            storage=storage,
            backend=self.backend,
            num_threads=self.num_threads,
        )

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Exchange statistics, and make the loss of them."""
        assert self.shards is not None
        how = {"backend": self.backend, "num_threads": self.num_threads}
        named = self.options._asdict()
        partial = functools.partial(
            api.partial_stats,
            logits,
            target,
            **{name: named[name] for name in _OF_STATS},
            **how,
        )
        self.stats = stats = whole_stats(
            self.shards, self.merge, self.ranks, partial, api.merge_stats
        )
        for name in _OF_LOGITS:
            del named[name]
        rest = {**named, **how, "num_classes": self.shards.num_classes}
        loss = api.loss_from_stats(stats, target, **rest)
        if self.options.aux:
            loss, self.found_aux = loss
        found: Tensor = loss
        return found

    def backward(self, logits: Tensor, target: Tensor, grad_output: Tensor) -> Tensor:
        """Gradient of the local logits."""
        assert self.shards is not None
        assert self.stats is not None
        given: dict[str, Any] = {**self.options._asdict(), **self.shards.place()}
        del given["aux"]
        grad: Tensor = api.grad_from_stats(
            logits,
            target,
            self.stats,
            **given,
            backend=self.backend,
            num_threads=self.num_threads,
            grad_output=grad_output,
        )
        return grad


def _plain(tensor: Tensor) -> Tensor:
    """The numbers without a graph, and not with their sign still to be turned."""
    return tensor.detach().resolve_neg()


class _VocabParallel(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, call: ShardCall) -> Tensor:
        ctx.call = call
        # also to notice tensors that were written to before backward
        ctx.save_for_backward(logits, target)
        return call.forward(_plain(logits), _plain(target))

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, None]:
        check_first_derivative(torch.is_grad_enabled() or is_batched(grad_output))
        logits, target = ctx.saved_tensors
        given = _plain(logits), _plain(target), _plain(grad_output)
        return ctx.call.backward(*given), None, None


def _is_dtensor(value: Any) -> bool:
    distributed = sys.modules.get("torch.distributed.tensor")
    return distributed is not None and isinstance(value, distributed.DTensor)


def _class_dimensions(logits: Any) -> list[int]:
    """Dimensions of the mesh of a DTensor over which its classes are sharded."""
    axis = class_axis(logits)
    return [dim for dim, place in enumerate(logits.placements) if place.is_shard(axis)]


def group_of(logits: Any, group: Any) -> Any:
    """The group whose ranks make this call: that of the mesh of a DTensor, or the one given.

    What is wrong with the DTensor is told to that group, and raises here only where no group can
    be known.
    """
    if not _is_dtensor(logits):
        return group
    mesh = logits.device_mesh
    at = [0] if mesh.ndim == 1 else _class_dimensions(logits)
    if len(at) == 1:
        return mesh.get_group(at[0])
    check_placements(group is not None, logits.placements, class_axis(logits))
    return group


def _local_parts(logits: Any, target: Any, group: Any) -> tuple[Any, Any]:
    """Local tensors, where these are DTensors; gradients go through."""
    if _is_dtensor(logits):
        placements = logits.placements
        at = _class_dimensions(logits)
        others = [place for dim, place in enumerate(placements) if dim not in at]
        check_placements(
            len(at) == 1 and all(place.is_replicate() for place in others),
            placements,
            class_axis(logits),
        )
        check_mesh_group(group is None or group is logits.device_mesh.get_group(at[0]))
        logits = logits.to_local(grad_placements=placements)
    if _is_dtensor(target):
        is_whole = all(place.is_replicate() for place in target.placements)
        check_target_placements(is_whole, target.placements)
        target = target.to_local()
    return logits, target
