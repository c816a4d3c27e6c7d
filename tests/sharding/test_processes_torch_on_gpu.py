"""Classes over processes of torch.distributed whose tensors lie on GPUs, which are simulated."""

import numpy as np
import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")
pytest.importorskip("greenlet", reason="the simulated GPU runs on greenlets")

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from fastxent.torch.process_group import Group
from sharding import torch_calls as calls
from sharding.shard_cases import CASES, ShardCase, assert_close, assert_same_asides, spread
from sharding.torch_worlds import World, values

# Everything that the passes, the exchange and merging treat in a way of its own.
NAMES = (
    "everything on 3",
    "everything of probabilities on 3",
    "side outputs, reduce on 3",
    "side outputs, in_order on 3",
    "ignored, with asides on 3",
    "rows without a number on 3",
    "no rows on 3",
    "float64 on 3",
    "shard 1 is empty, in_order, soft",
)
MASKED = {"reduction": "none", "softcap": 5.0}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    world = World(3, tmp_path_factory.mktemp("world"))
    yield world
    world.close()


def together(world, call, case):
    """What a call gives on every rank, and the names of what waited on any."""
    answers = values(world.run(case.ranks, calls.on_simulated_gpu, call, case))
    return [found for found, _ in answers], {name for _, names in answers for name in names}


def check(world, case):
    found, waited = together(world, calls.loss_and_grad, case)
    for loss, *_ in found[1:]:
        np.testing.assert_array_equal(loss, found[0][0])  # on every rank the same bits
    grad = np.concatenate([grad for _, grad, _ in found], axis=1)
    expected = case.expected()
    assert_close((found[0][0], grad), expected, case.rows, ulps=8)
    if found[-1][2] is not None:
        assert_same_asides(found[-1][2], expected[2], expected[0].dtype)
    assert not waited or case.merge == "in_order"


@pytest.mark.parametrize("name", NAMES)
def test_loss_and_gradient_are_those_of_one_process(world, name):
    check(world, CASES[name])


@pytest.mark.parametrize("merge", ["reduce", "in_order"])
def test_softcap_leaves_masked_classes_masked(world, merge):
    labels = (0, 0, 36, 0, 36, 36)
    of_case = {"labels": labels, "change": "mask shard", "merge": merge}
    check(world, ShardCase("masked", tuple(spread(37, 3)), MASKED, **of_case))


def test_a_label_outside_is_a_nan_and_no_wait(world):
    case = ShardCase("outside", tuple(spread(37, 3)), {"reduction": "none", "label_smoothing": 0.1})
    found, waited = together(world, calls.label_outside, case)
    assert not waited
    for loss, grad in found:
        assert loss.isnan().tolist() == [False, True, False, False, False, False]
        assert grad.isfinite().all()
        assert grad.any(1).tolist() == [True, False, True, True, True, True]


def test_another_backend_is_refused_on_every_rank(world):
    case = ShardCase("numpy", tuple(spread(37, 3)), backend="numpy")
    for kind, told in world.run(3, calls.on_simulated_gpu, calls.loss_and_grad, case):
        assert kind == "error"
        assert "'numpy' computes on the host" in told[0]


def test_descriptors_go_through_the_gpu_of_the_logits(monkeypatch):
    """Of a group without a backend for the host; the current GPU is cuda:0."""
    places = []

    class Sent(Exception):
        pass

    def sending(found, own, group):
        places.extend((found.device, own.device))
        raise Sent

    replaced = {
        "is_initialized": lambda: True,
        "get_rank": lambda group=None: 0,
        "get_world_size": lambda group: 2,
        "get_backend_config": lambda group: "cuda:nccl",
        "all_gather_single": sending,
    }
    for name, value in replaced.items():
        monkeypatch.setattr(torch.distributed, name, value, raising=False)
    with FakeTensorMode():
        group = Group(None, torch.empty(3, 4, device="cuda:1"))
        with pytest.raises(Sent):
            group.gather_bytes(np.zeros(1024, np.uint8))
    assert places == [torch.device("cuda:1")] * 2
