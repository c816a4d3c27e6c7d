"""Wrong arguments on one rank, and a rank that is gone: an error on every rank, and no hang."""

import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")

from sharding import dtensor_calls
from sharding import torch_calls as calls
from sharding.shard_cases import ShardCase, spread
from sharding.torch_worlds import World, values

THREE = ShardCase("three", tuple(spread(37, 3)), {"label_smoothing": 0.1})

# Who raises what: the rank that was given something else, and the others.
WRONG = {
    "other rows": (
        calls.fewer_rows,
        "ShapeError",
        "rows is (5,) on rank 1, and (6,) on",
    ),
    "other dtype": (calls.in_float64, "DTypeError", "float64 on rank 1, and float32 on ranks 0"),
    "other labels": (
        calls.other_label,
        "OptionError",
        "the labels in target is (6,) with",
    ),
    "other option": ({"label_smoothing": 0.2}, "OptionError", "label_smoothing is 0.2 on rank 1"),
    "other merge": (
        {"merge": "in_order"},
        "OptionError",
        "merge is in_order on rank 1",
    ),
    "other reduction": ({"reduction": "sum"}, "OptionError", "reduction is 'sum' on rank 1"),
    "other target": (calls.soft_target, "OptionError", "target is probabilities on rank 1"),
}
REFUSED = {
    "bad label": (calls.bad_label, "LabelError", "target[3] is 99: it lies outside [0, 37)"),
    "bad option": ({"label_smoothing": 2.0}, "OptionError", "label_smoothing must lie in [0, 1]"),
    "bad dtype": (calls.in_integers, "DTypeError", "dtype int32"),
    "bad shape": (calls.transposed, "ShapeError", "class indices and needs"),
    "bad weight": (calls.weight_with_grad, "OptionError", "weight requires grad"),
    "no tensor": (calls.no_tensor, "DTypeError", "must be a tensor"),
    "bad merge": ({"merge": "later"}, "OptionError", "merge must be one of 'reduce', 'in_order'"),
    "bad aux": ({"aux": ("target_grad",)}, "OptionError", "target_grad"),
    "bad backend": ({"backend": "abacus"}, "OptionError", "backend must be one of"),
    "bad threads": ({"num_threads": 0}, "OptionError", "num_threads must be at least 1"),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    world = World(3, tmp_path_factory.mktemp("world"))
    yield world
    world.close()


@pytest.fixture(scope="module")
def impatient(tmp_path_factory):
    """Ranks that would wait for another one for two seconds."""
    world = World(3, tmp_path_factory.mktemp("impatient"), timeout=2.0)
    yield world
    world.close()


def errors(answers):
    for kind, told in answers:
        assert kind == "error", told
    return [told[0] for _, told in answers]


@pytest.mark.parametrize("name", WRONG)
def test_ranks_that_differ_are_named_on_every_rank(world, name):
    changes, kind, words = WRONG[name]
    for told in errors(world.run(3, calls.changed_call, THREE, 1, changes)):
        assert told.startswith(f"{kind}: ")
        assert words in told
    values(world.run(3, calls.loss_and_grad, THREE))  # the group is as good as before


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("rank", [0, 2])
def test_who_was_given_something_wrong_is_named_on_the_others(world, name, rank):
    changes, kind, words = REFUSED[name]
    told = errors(world.run(3, calls.changed_call, THREE, rank, changes))
    own = told.pop(rank)
    assert own.startswith(f"{kind}: ")
    assert words in own
    assert "rank" not in own
    for other in told:
        assert other.startswith(f"{kind}: rank {rank} of the group")
    values(world.run(3, calls.loss_and_grad, THREE))


def test_what_is_wrong_on_all_is_everyones_own_error(world):
    bad = ShardCase("three", tuple(spread(37, 3)), {"label_smoothing": -1.0})
    for told in errors(world.run(3, calls.loss_and_grad, bad)):
        assert told.startswith("OptionError: label_smoothing must lie in [0, 1]")


DTENSORS = {
    "other placement": (
        dtensor_calls.of_rows,
        "OptionError",
        "a DTensor with placements (Shard(dim=0),)",
    ),
    "replicated": (
        dtensor_calls.replicated,
        "OptionError",
        "a DTensor with placements (Replicate(),)",
    ),
    "sharded target": (
        dtensor_calls.target_of_rows,
        "OptionError",
        "target is a DTensor with placements",
    ),
    "other group": (dtensor_calls.other_group, "OptionError", "group is not the one"),
    "two dimensions": (
        dtensor_calls.of_two_dimensions,
        "OptionError",
        "(Shard(dim=0), Shard(dim=0))",
    ),
}


@pytest.mark.parametrize("name", DTENSORS)
def test_a_wrong_dtensor_of_one_rank_is_an_error_on_all(impatient, name):
    changes, kind, words = DTENSORS[name]
    told = errors(impatient.run(3, dtensor_calls.changed_dtensor_call, 1, changes))
    assert words in told[1]
    assert told[1].startswith(f"{kind}: ")
    for other in (told[0], told[2]):
        assert other.startswith(f"{kind}: rank 1 of the group stopped")


def test_weights_are_of_all_classes(world):
    for told in errors(world.run(3, calls.changed_call, THREE, "all", calls.weight_of_a_shard)):
        assert told.startswith("ShapeError: weight needs shape (37,)")


def test_no_classes_anywhere(world):
    for told in errors(world.run(3, calls.loss_and_grad, ShardCase("none", (0, 0, 0, 0), rows=0))):
        assert told.startswith("ShapeError: the logits have no classes on any of the 3 ranks")


def test_a_rank_that_dies_is_an_error_on_the_others(tmp_path):
    world = World(3, tmp_path, timeout=2.0)
    try:
        values(world.run(3, calls.loss_and_grad, THREE))
        (kind, _), *others = world.run(3, calls.after_a_death, THREE, 0, patience=60)
        assert kind == "died"
        for kind, told in others:
            assert kind == "error", told
    finally:
        world.close()


def test_a_process_without_a_group():
    import torch

    from fastxent import CallOrderError
    from fastxent.torch import vocab_parallel_cross_entropy

    with pytest.raises(CallOrderError, match="init_process_group first"):
        vocab_parallel_cross_entropy(torch.zeros(2, 3), torch.tensor([0, 1]))
