"""Calls with DTensors that the processes of `torch_worlds` make; one rank has another one."""

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard

from fastxent.torch import vocab_parallel_cross_entropy


def changed_dtensor_call(group, on_rank, changes):
    """A call with DTensors of the group, that one rank makes with another one."""
    mesh = DeviceMesh.from_group(group, "cpu")
    local = DTensor.from_local(torch.zeros(6, 2), mesh, [Shard(1)], run_check=False)
    given = {"local_logits": local, "target": torch.zeros(6, dtype=torch.long), "group": None}
    if dist.get_rank(group) == on_rank:
        given |= changes(mesh)
    vocab_parallel_cross_entropy(**given)


def _placed(mesh, array, *placements):
    return DTensor.from_local(array, mesh, placements, run_check=False)


def of_rows(mesh):
    return {"local_logits": _placed(mesh, torch.zeros(2, 6), Shard(0))}


def replicated(mesh):
    return {"local_logits": _placed(mesh, torch.zeros(6, 6), Replicate())}


def target_of_rows(mesh):
    return {"target": _placed(mesh, torch.zeros(2, dtype=torch.long), Shard(0))}


def other_group(mesh):
    return {"group": dist.group.WORLD}


def of_two_dimensions(mesh):
    """Rows cut along both dimensions of a mesh, which tells no group; it is given."""
    group = mesh.get_group(0)
    ranks = torch.arange(dist.get_world_size(group)).reshape(1, -1)
    names = ("rows", "classes")
    square = DeviceMesh.from_group([group, group], "cpu", mesh=ranks, mesh_dim_names=names)
    return {"local_logits": _placed(square, torch.zeros(2, 6), Shard(0), Shard(0)), "group": group}
