"""What the processes of `torch_worlds` are asked to do; each takes its group first."""

import os

import numpy as np
import torch
import torch.distributed as dist

import fastxent.torch as ft
from fastxent.torch import vocab_parallel_cross_entropy


def tensors_of(case, rank):
    logits, target = case.arrays()
    here = case.shard(rank)
    local = torch.from_numpy(np.ascontiguousarray(logits[:, here])).requires_grad_()
    return local, torch.from_numpy(target[:, here].copy() if case.soft else target)


def options_of(case):
    given = case.given()
    for name in ("weight", "sample_weight"):
        if name in given:
            given[name] = torch.from_numpy(given[name])
    return given | {"merge": case.merge, "backend": case.backend}


def loss_and_grad(group, case, grad_output=None):
    """Loss, gradient of this rank's logits, side outputs."""
    local, target = tensors_of(case, dist.get_rank(group))
    found = vocab_parallel_cross_entropy(local, target, group, **options_of(case))
    loss, aux = found if isinstance(found, tuple) else (found, None)
    loss.backward(torch.ones_like(loss) if grad_output is None else torch.tensor(grad_output))
    asides = aux and {name: None if x is None else x.numpy() for name, x in aux._asdict().items()}
    return loss.detach().numpy(), local.grad.numpy(), asides


def on_simulated_gpu(group, call, *arguments):
    """What a call gives where tensors lie in the memory of the simulated GPU, and what waited."""
    import pytest
    from gpu.simulation.driver import SimulatedDriver
    from gpu.simulation.tensors import Tensors

    from fastxent.backends import load

    backend = load("cuda")
    backend.driver = SimulatedDriver()
    waited = []
    with pytest.MonkeyPatch.context() as patch:
        for name in ("synchronize", "wait_on_host"):
            whole = getattr(backend.driver, name)
            patch.setattr(backend.driver, name, _noting(waited, name, whole))
        known = Tensors(patch)
        try:
            with known.on_gpu():
                return call(group, *arguments), waited
        finally:
            known.forget()
            backend.driver = None


def label_outside(group, case):
    """Losses and gradient of a row whose label is outside of all classes."""
    local, target = tensors_of(case, dist.get_rank(group))
    target[1] = 99
    loss = vocab_parallel_cross_entropy(local, target, group, **options_of(case))
    loss.sum().backward()
    return loss.detach(), local.grad


def _noting(names, name, call):
    def noting(*arguments, **named):
        names.append(name)
        return call(*arguments, **named)

    return noting


def half_loss_and_grad(group, case, dtype):
    """The same for a dtype that NumPy lacks, as float32, and what a single call gives."""
    rank = dist.get_rank(group)
    logits, target = (torch.from_numpy(array) for array in case.arrays())
    whole = logits.to(dtype).requires_grad_()
    local = whole.detach()[:, case.shard(rank)].contiguous().requires_grad_()
    loss = vocab_parallel_cross_entropy(local, target, group, **options_of(case))
    expected = ft.cross_entropy(whole, target, **case.given())
    loss.backward()
    expected.backward()
    assert local.grad.dtype == dtype
    return loss.item(), expected.item(), local.grad.float(), whole.grad[:, case.shard(rank)].float()


class _Counted:
    """torch.distributed, with a count of the numbers that are exchanged."""

    def __init__(self):
        self.sizes = []

    def __enter__(self):
        self.before = dist.all_reduce, dist.all_gather_single
        dist.all_reduce = self._counting(dist.all_reduce, 0)
        dist.all_gather_single = self._counting(dist.all_gather_single, 1)
        return self

    def __exit__(self, *_):
        dist.all_reduce, dist.all_gather_single = self.before

    def _counting(self, call, at):
        def counted(*arguments, **named):
            self.sizes.append((call.__name__, arguments[at].dtype, arguments[at].numel()))
            return call(*arguments, **named)

        return counted


def exchanged(group, case):
    """What each exchange of a call carries."""
    with _Counted() as counted:
        loss_and_grad(group, case)
    return [(name, str(dtype), size) for name, dtype, size in counted.sizes]


def changed_call(group, case, on_rank, changes):
    """A call that one rank makes with other arguments; what it raises is what comes back."""
    rank = dist.get_rank(group)
    local, target = tensors_of(case, rank)
    given = {"local_logits": local.detach(), "target": target, "group": group, **options_of(case)}
    if on_rank in (rank, "all"):
        given |= changes(given) if callable(changes) else changes
    vocab_parallel_cross_entropy(**given)


def fewer_rows(given):
    return {"local_logits": given["local_logits"][:-1], "target": given["target"][:-1]}


def transposed(given):
    return {"local_logits": given["local_logits"].T}


def in_float64(given):
    return {"local_logits": given["local_logits"].double()}


def in_integers(given):
    return {"local_logits": given["local_logits"].int()}


def no_tensor(given):
    return {"local_logits": given["local_logits"].numpy()}


def other_label(given):
    return {"target": given["target"].roll(1)}


def bad_label(given):
    target = given["target"].clone()
    target[3] = 99
    return {"target": target}


def weight_with_grad(given):
    return {"weight": torch.ones(37, requires_grad=True)}


def weight_of_a_shard(given):
    return {"weight": torch.ones(13)}


def soft_target(given):
    return {"target": torch.full_like(given["local_logits"], 0.1)}


def beside_loss_parallel(group, dtype):
    """Our loss and PyTorch's of one DTensor in one program: losses, gradients of the shard."""
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import Shard, distribute_tensor
    from torch.distributed.tensor.parallel import loss_parallel

    mesh = DeviceMesh.from_group(group, "cpu")
    logits = torch.randn(8, 21, dtype=dtype, generator=torch.Generator().manual_seed(1))
    target = torch.arange(8) * 3 % 21
    target[5] = -100
    theirs = distribute_tensor(logits, mesh, [Shard(1)]).requires_grad_()
    ours = distribute_tensor(logits, mesh, [Shard(1)]).requires_grad_()
    with loss_parallel():
        expected = torch.nn.functional.cross_entropy(theirs, target)
        expected.backward()
    loss = vocab_parallel_cross_entropy(ours, target)
    loss.backward()
    assert ours.grad.placements == theirs.grad.placements
    pair = loss.item(), expected.full_tensor().item()
    return (*pair, ours.grad.to_local().numpy(), theirs.grad.to_local().numpy())


def dtensor_of_rows(group):
    """A DTensor that is not sharded on its classes."""
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import Shard, distribute_tensor

    mesh = DeviceMesh.from_group(group, "cpu")
    logits = distribute_tensor(torch.zeros(4, 6), mesh, [Shard(0)])
    vocab_parallel_cross_entropy(logits, torch.zeros(4, dtype=torch.long))


def one_step(group, size, classes_over):
    """Rows and classes spread at once: `classes_over` ranks share the classes of each row.

    All ranks of the world make the groups, and `size` of them take the step.
    """
    rank = dist.get_rank()
    of_classes = of_rows = None
    for first in range(0, size, classes_over):
        ranks = list(range(first, first + classes_over))
        made = dist.new_group(ranks)
        of_classes = made if rank in ranks else of_classes
    for at in range(classes_over):
        ranks = list(range(at, size, classes_over))
        made = dist.new_group(ranks)
        of_rows = made if rank in ranks else of_rows
    if rank >= size:
        return None
    generator = torch.Generator().manual_seed(3)
    logits, target = torch.randn(12, 30, generator=generator), torch.arange(12) * 2
    target[:3] = -100
    rows = torch.arange(12).chunk(size // classes_over)[rank // classes_over]
    classes = torch.arange(30).chunk(classes_over)[rank % classes_over]
    local = logits[rows][:, classes].requires_grad_()
    counted = (target[rows] != -100).sum().double()
    dist.all_reduce(counted, group=of_rows)
    loss = vocab_parallel_cross_entropy(
        local, target[rows], of_classes, normalizer=counted, all_ignored="zero"
    )
    loss.backward()
    total = loss.detach().clone()
    dist.all_reduce(total, group=of_rows)
    whole = logits.clone().requires_grad_()
    expected = torch.nn.functional.cross_entropy(whole, target)
    expected.backward()
    return total.item(), expected.item(), local.grad, whole.grad[rows][:, classes]


def twice(group, case):
    """Two backward passes, a module, no gradient: what a training loop does beside one step."""
    local, target = tensors_of(case, dist.get_rank(group))
    module = ft.VocabParallelCrossEntropyLoss(group, label_smoothing=0.1, reduction="sum")
    loss = module(local, target)
    loss.backward(retain_graph=True)
    once = local.grad.clone()
    loss.backward(torch.tensor(2.0))
    with torch.no_grad():
        plain = module(local, target)
    return once, local.grad, plain.requires_grad, plain.item(), loss.item(), repr(module)


def written_over(group, case):
    """Logits that change before backward."""
    local, target = tensors_of(case, dist.get_rank(group))
    loss = vocab_parallel_cross_entropy(local * 1.0, target, group)
    logits = local * 1.0
    loss = vocab_parallel_cross_entropy(logits, target, group)
    logits.add_(1.0)
    loss.backward()


def second_derivative(group, case):
    local, target = tensors_of(case, dist.get_rank(group))
    loss = vocab_parallel_cross_entropy(local, target, group)
    (grad,) = torch.autograd.grad(loss, local, create_graph=True)
    grad.sum().backward()


def after_a_death(group, case, dying):
    """One rank ends before the call."""
    if dist.get_rank(group) == dying:
        os._exit(3)
    loss_and_grad(group, case)
