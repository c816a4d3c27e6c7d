"""What a process must be before it can speak with others."""

from __future__ import annotations

from typing import Any

from fastxent.errors import CallOrderError, DTypeError, OptionError

__all__ = [
    "check_communicator",
    "check_first_derivative",
    "check_is_in_group",
    "check_is_initialised",
    "check_mesh_group",
    "check_placements",
    "check_runs_eagerly",
    "check_target_placements",
]


def check_communicator(is_communicator: bool, value: Any) -> None:
    """Ranks that speak with each other, of which this is one."""
    if not is_communicator:
        raise DTypeError(
            f"comm must be an mpi4py.MPI.Intracomm that this process belongs to, got {value!r}"
        )


def check_is_initialised(is_initialised: bool) -> None:
    """Processes of torch.distributed that know of each other."""
    if not is_initialised:
        raise CallOrderError(
            "torch.distributed has no process group yet: call "
            "torch.distributed.init_process_group first, as torchrun's programs do"
        )


def check_is_in_group(is_in_group: bool, rank: int) -> None:
    """A call by the members of a group only."""
    if not is_in_group:
        raise OptionError(
            f"this process, rank {rank} of all, does not belong to the group: only its members "
            "make the call"
        )


def check_runs_eagerly(is_eager: bool) -> None:
    """Plain tensors, as nothing but autograd looks into the call."""
    if not is_eager:
        raise OptionError(
            "the loss over a group works on plain tensors only, not where a call is compiled, "
            "traced or transformed: leave it out of the compiled part, with "
            "torch.compiler.disable for instance"
        )


def check_first_derivative(is_more: bool) -> None:
    """One gradient, of first order: the others would need exchanges of their own."""
    if is_more:
        raise CallOrderError(
            "the loss over a group has first derivatives only, one upstream gradient at a time: "
            "leave out create_graph=True and is_grads_batched=True"
        )


def check_placements(is_sharded: bool, placements: Any, axis: int) -> None:
    """A DTensor of which each rank has some of the classes and all of the rows."""
    if not is_sharded:
        raise OptionError(
            f"local_logits is a DTensor with placements {placements}: expected Shard({axis}), the "
            "class dimension, on one dimension of its mesh and Replicate() on any other. "
            "Redistribute it, or pass local_logits.to_local() and the group whose ranks have the "
            "other classes"
        )


def check_target_placements(is_whole: bool, placements: Any) -> None:
    """A target that each rank has as a whole."""
    if not is_whole:
        raise OptionError(
            f"target is a DTensor with placements {placements}: expected class indices that every "
            "rank has, Replicate(). Redistribute it, or pass target.to_local() of the rows that "
            "local_logits has; probabilities are those of the local classes"
        )


def check_mesh_group(is_its: bool) -> None:
    """A group that is that of the mesh of a DTensor."""
    if not is_its:
        raise OptionError(
            "local_logits is a DTensor, and group is not the one that its classes are sharded "
            "over: leave group out, or pass local_logits.to_local()"
        )
