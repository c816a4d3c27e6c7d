"""The loss over classes that are spread over the processes of a group, with autograd."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from fastxent.options import Options
from fastxent.sharding.engine import names_of
from fastxent.torch.process_group import Group
from fastxent.torch.shards import ShardCall, group_of

__all__ = ["VocabParallelCrossEntropyLoss", "vocab_parallel_cross_entropy"]


def vocab_parallel_cross_entropy(
    local_logits: Tensor,
    target: Tensor,
    group: Any = None,
    *,
    weight: Tensor | None = None,
    ignore_index: int | None = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    normalizer: Any = None,
    sample_weight: Tensor | None = None,
    z_loss: float = 0.0,
    softcap: float | None = None,
    logit_scale: float = 1.0,
    all_ignored: str = "nan",
    aux: Iterable[str] = (),
    merge: str = "reduce",
    backend: str | None = None,
    num_threads: int | None = None,
) -> Any:
    """Cross-entropy over classes that are spread over the processes of a group.

    Every process of the group makes the call, with the same rows and the same options.

    Parameters
    ----------
    local_logits : Tensor of float16, bfloat16, float32 or float64
        Logits of this rank's classes, of shape (C,), (N, C) or (N, C, d1, ...). The classes of
        rank 0 of the group come first, then those of rank 1, and so on; ranks may have different
        numbers of them, or none. Or a DTensor that is sharded on the class dimension.
    target : Tensor
        Integers of any dtype: class indices among the classes of all ranks, the same on every
        rank. Floating-point numbers or booleans: the probabilities of this rank's classes.
    group : torch.distributed.ProcessGroup, optional
        By default all processes; for a DTensor those of its mesh.
    weight : Tensor of shape (C,), optional
        Class weights, of the classes of all ranks.
    ignore_index, label_smoothing, reduction, normalizer, sample_weight, z_loss, softcap, \
logit_scale, all_ignored, backend, num_threads
        As in `fastxent.torch.cross_entropy`. Smoothing is over the classes of all ranks.
    aux : iterable of str, default ()
        As in `fastxent.torch.cross_entropy`, but for "target_grad", and "correct" of
        probabilities.
    merge : {"reduce", "in_order"}, default "reduce"
        "reduce" lets the group add up 3 to 4 numbers a row. "in_order" gives every rank the
        statistics of all others, and adds them up in class order: the same bits in every run,
        whatever algorithm the group takes. If the classes of every rank that has some begin at a
        multiple of 1,024, there are statistics of every block of 1,024 classes, and the bits are
        the same whatever the number of ranks; by compiled backends on the CPU they are those of
        `fastxent.torch.cross_entropy`, where that has more than 100 classes in all, which lie last
        in memory: of (N, C). Else each rank has one entry, and the bits depend on how the classes
        are divided.

    Returns
    -------
    loss : Tensor
        That of all classes, the same bits on every rank.
    aux : fastxent.Aux
        Only where `aux` names something: tensors without a graph.

    Raises
    ------
    LabelError, ShapeError, OptionError, DTypeError, BackendError
        As from `fastxent.torch.cross_entropy`, or where rows, dtype or options differ between
        ranks. If one rank raises before numbers are exchanged every rank does; but see Notes.
    CallOrderError
        There is no process group yet.

    Notes
    -----
    Three exchanges: a descriptor of 1,024 bytes a rank, by which all ranks know that they mean the
    same call, one maximum a row, and 2 to 3 sums a row. Side outputs "argmax" and "correct" need a
    fourth, of one number a row for both; "entropy" adds one to the sums, and "log_prob" of
    probabilities with class weights or label smoothing two. With ``merge="in_order"`` there are
    two exchanges: the descriptor, and all statistics. These are 2 numbers a row for every 1,024
    classes, or for every rank if that is what there is; 4 with label smoothing and for
    probabilities; the side outputs' besides, and for class indices one more a row from every rank.
    Numbers are float64 and stay on the device of the logits. The descriptors are the host's: where
    the group has a backend for GPUs only, that exchange makes the host wait.

    What cannot be told to the other ranks is an error before there is a group to tell it to: no
    process group, a process outside of `group`, and without `group` a DTensor of a mesh of several
    dimensions not exactly one of which has the classes. The others then wait until the group's
    time-out; with `group` given, this DTensor too is an error on every rank.

    Each rank's backward pass gives the gradient of its own logits, for the upstream gradient that
    it has there; nothing is exchanged for it. Sums over data parallel ranks are the caller's, as
    `torch.nn.parallel.DistributedDataParallel` and ``normalizer`` make them.

    On a GPU the passes over the shard are those of `fastxent.partial_stats` and
    `fastxent.grad_from_stats`, and nothing but the descriptors makes the host wait, unless
    ``merge="in_order"`` does: it merges on the host. Values of labels and weights are not looked at
    there: a label outside of all classes makes the loss of its row NaN.

    A rank that has died is the group's to notice: its error, or its time-out, comes to every rank.
    First derivatives only, of the logits only; outside of compiled and transformed calls.

    Examples
    --------
    >>> import torch, torch.distributed as dist
    >>> from fastxent.torch import vocab_parallel_cross_entropy
    >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    >>> logits = torch.tensor([[2.0, 1.0, 0.1], [0.1, 2.0, 1.9]], requires_grad=True)
    >>> loss = vocab_parallel_cross_entropy(logits, torch.tensor([1, 0]))
    >>> loss.backward()
    >>> round(loss.item(), 3)
    2.019
    >>> dist.destroy_process_group()
    """
    first = weight, ignore_index, label_smoothing, reduction, normalizer, sample_weight
    options = Options(*first, z_loss, softcap, logit_scale, 0, all_ignored, names_of(aux))
    of_processes = Group(group_of(local_logits, group), local_logits)
    call = ShardCall(options, merge, backend, num_threads, of_processes)
    loss = call.run(local_logits, target, group)
    return loss if call.found_aux is None else (loss, call.found_aux)


class VocabParallelCrossEntropyLoss(torch.nn.Module):
    """`vocab_parallel_cross_entropy` as a module.

    Parameters
    ----------
    group : torch.distributed.ProcessGroup, optional
    weight : Tensor of shape (C,), optional
        Becomes a buffer.
    ignore_index, label_smoothing, reduction, normalizer, z_loss, softcap, logit_scale, \
all_ignored, aux, merge, backend, num_threads
        As in `vocab_parallel_cross_entropy`. They are kept in the dictionary `options`, where they
        can be changed between calls.

    Examples
    --------
    >>> import torch, torch.distributed as dist
    >>> from fastxent.torch import VocabParallelCrossEntropyLoss
    >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    >>> loss = VocabParallelCrossEntropyLoss(label_smoothing=0.1)
    >>> round(loss(torch.zeros(2, 4), torch.tensor([1, 3])).item(), 4)
    1.3863
    >>> dist.destroy_process_group()
    """

    def __init__(
        self,
        group: Any = None,
        *,
        weight: Tensor | None = None,
        ignore_index: int | None = -100,
        label_smoothing: float = 0.0,
        reduction: str = "mean",
        normalizer: Any = None,
        z_loss: float = 0.0,
        softcap: float | None = None,
        logit_scale: float = 1.0,
        all_ignored: str = "nan",
        aux: Iterable[str] = (),
        merge: str = "reduce",
        backend: str | None = None,
        num_threads: int | None = None,
    ) -> None:
        super().__init__()
        self.group = group
        self.register_buffer("weight", weight)
        self.options: dict[str, Any] = {
            "ignore_index": ignore_index,
            "label_smoothing": label_smoothing,
            "reduction": reduction,
            "normalizer": normalizer,
            "z_loss": z_loss,
            "softcap": softcap,
            "logit_scale": logit_scale,
            "all_ignored": all_ignored,
            "aux": names_of(aux),
            "merge": merge,
            "backend": backend,
            "num_threads": num_threads,
        }

    def extra_repr(self) -> str:
        """Options that are not the default."""
        defaults = inspect.signature(VocabParallelCrossEntropyLoss).parameters
        given = self.options.items()
        changed = {name: value for name, value in given if value != defaults[name].default}
        return ", ".join(f"{name}={value!r}" for name, value in changed.items())

    def forward(
        self, local_logits: Tensor, target: Tensor, *, sample_weight: Tensor | None = None
    ) -> Any:
        """Compute the loss; `sample_weight` as in `vocab_parallel_cross_entropy`."""
        return vocab_parallel_cross_entropy(
            *(local_logits, target, self.group),
            weight=self.weight,
            sample_weight=sample_weight,
            **self.options,
        )
