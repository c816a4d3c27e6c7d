"""Classes over real processes of torch.distributed: the same loss and gradient as one process."""

import math

import numpy as np
import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")

from fastxent.backends import load
from sharding import torch_calls as calls
from sharding.shard_cases import (
    CASES,
    IN_BLOCKS,
    RANKS,
    UNALIGNED,
    ShardCase,
    assert_close,
    assert_same_asides,
    spread,
)
from sharding.torch_worlds import World, values

THREE = ShardCase("three", tuple(spread(37, 3)))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    world = World(5, tmp_path_factory.mktemp("world"))
    yield world
    world.close()


def together(world, case, grad_output=None):
    answers = values(world.run(case.ranks, calls.loss_and_grad, case, grad_output))
    losses = [loss for loss, _, _ in answers]
    for loss in losses[1:]:
        np.testing.assert_array_equal(loss, losses[0])  # on every rank the same bits
    return losses[0], np.concatenate([grad for _, grad, _ in answers], axis=1), answers[-1][2]


@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradient_are_those_of_one_process(world, name):
    case = CASES[name]
    loss, grad, aux = together(world, case)
    expected = case.expected()
    assert_close((loss, grad), expected, case.rows)
    if aux is not None:
        assert_same_asides(aux, expected[2], expected[0].dtype)


@pytest.mark.parametrize("name", IN_BLOCKS)
def test_blocks_merged_in_order_have_the_bits_of_one_process(world, name):
    case = IN_BLOCKS[name]
    backend = load(case.backend)
    reason = backend.why_not()
    if reason is None and not hasattr(backend, "partial"):
        reason = "it does not compute on shards of the classes"
    if reason is not None:
        pytest.skip(f"{case.backend}: {reason}")
    loss, grad, _ = together(world, case)
    expected = case.expected()
    np.testing.assert_array_equal(loss, expected[0])
    np.testing.assert_array_equal(grad, expected[1])


def test_bfloat16(world):
    import torch

    case = ShardCase("bfloat16", tuple(spread(37, 3)), {"label_smoothing": 0.1})
    for loss, expected, grad, of_whole in values(
        world.run(3, calls.half_loss_and_grad, case, torch.bfloat16)
    ):
        assert abs(loss - expected) <= 4 * np.finfo("f4").eps * abs(expected)
        torch.testing.assert_close(grad, of_whole, rtol=2**-8, atol=0)


@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_upstream_gradients_multiply_the_gradient(world, reduction):
    case = ShardCase("upstream", tuple(spread(37, 5)), {"reduction": reduction})
    upstream = np.linspace(-1, 2, 6, dtype="f4") if reduction == "none" else np.float32(-2.5)
    loss, grad, _ = together(world, case, upstream.tolist())
    assert_close((loss, grad), case.expected(upstream), case.rows)


@pytest.mark.parametrize(("options", "of_row"), [({}, 3), ({"label_smoothing": 0.1}, 4)])
@pytest.mark.parametrize("soft", [False, True])
def test_a_few_numbers_a_row_are_exchanged(world, options, of_row, soft):
    case = ShardCase("large", tuple(spread(3000, 5)), options, rows=64, soft=soft)
    of_row = 4 if soft else of_row
    for sizes in values(world.run(5, calls.exchanged, case)):
        (descriptors, *reductions) = sizes
        assert descriptors == ("all_gather_single", "torch.uint8", 1024)
        assert [name for name, _, _ in reductions] == ["all_reduce", "all_reduce"]
        assert 0 <= sum(size for _, _, size in reductions) - of_row * 64 <= 1


def test_in_order_exchanges_numbers_of_blocks(world):
    case = ShardCase("blocks", (0, 2048, 3000), rows=64, merge="in_order")
    for sizes in values(world.run(2, calls.exchanged, case)):
        # two parts on the first rank, of max and sum, and the label's logit
        assert sizes[1:] == [("all_gather_single", "torch.float64", 64 * 5)]


def test_in_order_has_the_bits_of_its_division_of_the_classes(world):
    """Shards that do not begin at blocks: one entry a rank, merged in the order of the classes."""
    for case in UNALIGNED.values():
        loss, grad, _ = together(world, case)
        again, grad_again, _ = together(world, case)
        expected = case.merged()
        for found in ((loss, grad), (again, grad_again)):
            np.testing.assert_array_equal(found[0], expected[0])
            np.testing.assert_array_equal(found[1], expected[1])
        assert_close((loss, grad), case.expected(), case.rows)


def test_in_order_sends_numbers_of_ranks_where_there_are_no_blocks(world):
    case = ShardCase("ranks", (0, 2047, 3000), rows=64, merge="in_order")
    for sizes in values(world.run(2, calls.exchanged, case)):
        assert sizes[1:] == [("all_gather_single", "torch.float64", 64 * 3)]


@pytest.mark.parametrize("name", ["argmax", "correct"])
def test_the_largest_class_takes_an_exchange_of_its_own(world, name):
    case = ShardCase("largest", tuple(spread(3000, 3)), {"aux": (name,)}, rows=64)
    for sizes in values(world.run(3, calls.exchanged, case)):
        assert sizes[3:] == [("all_reduce", "torch.int64", 64)]


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_it_equals_loss_parallel_on_the_same_mesh(world, ranks, dtype):
    import torch

    dtype = getattr(torch, dtype)
    room = 8 * torch.finfo(dtype).eps
    for loss, expected, grad, their_grad in values(
        world.run(ranks, calls.beside_loss_parallel, dtype)
    ):
        assert math.isclose(loss, expected, rel_tol=room)
        np.testing.assert_allclose(grad, their_grad, rtol=0, atol=room / 7)


def test_a_dtensor_of_rows_is_refused(world):
    for kind, told in world.run(2, calls.dtensor_of_rows):
        assert kind == "error"
        assert "OptionError" in told[0]
        assert "local_logits.to_local()" in told[0]


def test_rows_and_classes_spread_at_once_are_one_mean(world):
    import torch

    for ranks, classes_over in ((3, 1), (4, 2), (5, 5)):
        steps = values(world.run(5, calls.one_step, ranks, classes_over))[:ranks]
        for loss, expected, grad, of_whole in steps:
            assert math.isclose(loss, expected, rel_tol=1e-6)
            torch.testing.assert_close(grad, of_whole, rtol=1e-5, atol=1e-8)


def test_the_module_and_a_second_backward(world):
    import torch

    for once, both, has_graph, plain, loss, shown in values(world.run(3, calls.twice, THREE)):
        torch.testing.assert_close(both, 3 * once, rtol=1e-6, atol=1e-8)
        assert not has_graph
        assert plain == loss
        assert shown.endswith("(label_smoothing=0.1, reduction='sum')")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (calls.written_over, "modified by an inplace operation"),
        (calls.second_derivative, "first derivatives only"),
    ],
)
def test_autograd_refuses_what_it_cannot_do(world, call, words):
    for kind, told in world.run(3, call, THREE):
        assert kind == "error"
        assert words in told[0]
