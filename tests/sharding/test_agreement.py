"""Descriptors: what ranks conclude from them, and that all conclude the same."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fastxent import DTypeError, LabelError, OptionError, ShapeError
from fastxent.sharding.agreement import SIZE, Descriptor, agree, label_range, told

SHARED = {"the shape of the rows": "(4,)", "the dtype of the logits": "float32", "z_loss": "0"}


def descriptor(classes=3, labels=(0, 5), **changes):
    return Descriptor(classes, labels, SHARED | changes)


def concluded(ranks):
    """What each rank concludes: where the classes are, or an error."""
    sent = []
    for rank in ranks:

        def describe(rank=rank):
            if isinstance(rank, Exception):
                raise rank
            return rank

        class Sent(Exception):
            pass

        def note(mine):
            sent.append(mine)
            raise Sent

        with pytest.raises((Sent, *([type(rank)] if isinstance(rank, Exception) else []))):
            agree(describe, note, 0)
    found = []
    for at, rank in enumerate(ranks):

        def describe(rank=rank):
            if isinstance(rank, Exception):
                raise rank
            return rank

        try:
            found.append(agree(describe, lambda mine: np.stack(sent), at))
        except Exception as error:
            found.append(error)
    return found


def test_classes_follow_each_other_in_the_order_of_the_ranks():
    ranks = [descriptor(3), descriptor(0, None), descriptor(1021), descriptor(5)]
    found = concluded(ranks)
    assert [shards.class_offset for shards in found] == [0, 3, 3, 1024]
    assert {shards.num_classes for shards in found} == {1029}
    assert [shards.place()["class_offset"] for shards in found] == [0, 0, 3, 1024]
    assert not any(shards.begin_at_multiples_of(1024) for shards in found)
    blocks = concluded([descriptor(1024), descriptor(0), descriptor(1024), descriptor(7)])
    assert all(shards.begin_at_multiples_of(1024) for shards in blocks)
    assert not concluded([descriptor(1024), descriptor(7), descriptor(1)])[0].begin_at_multiples_of(
        1024
    )


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("the shape of the rows", ShapeError),
        ("the dtype of the logits", DTypeError),
        ("z_loss", OptionError),
    ],
)
def test_what_differs_is_named_with_its_ranks(name, kind):
    ranks = [descriptor(), descriptor(), descriptor(**{name: "other"}), descriptor()]
    for error in concluded(ranks):
        assert type(error) is kind
        usual = SHARED[name]
        assert str(error).startswith(f"{name} is other on rank 2, and {usual} on ranks 0, 1 and 3")


def test_of_many_ranks_a_few_are_named():
    ranks = [descriptor(z_loss="1" if at % 2 else "0") for at in range(20)]
    for error in concluded(ranks):
        assert "is 1 on ranks 1, 3, 5, 7 and 6 more, and 0 on ranks 0, 2, 4, 6 and 6" in str(error)


def test_an_error_of_one_rank_is_everyones():
    own = LabelError("target[2] is 9")
    found = concluded([descriptor(), own, descriptor(z_loss="1")])
    assert found[1] is own
    for at in (0, 2):
        assert type(found[at]) is LabelError
        assert "rank 1 of the group stopped" in str(found[at])
        assert str(found[at]).endswith("LabelError: target[2] is 9")


def test_an_error_that_is_none_of_ours_is_told_too():
    own = MemoryError("no room,\nnone")
    found = concluded([own, descriptor()])
    assert found[0] is own
    assert type(found[1]) is OptionError
    assert str(found[1]).endswith("MemoryError: no room,\nnone")


@pytest.mark.parametrize("labels", [(-1, 3), (0, 9), (7, 2**63 - 1)])
def test_a_label_outside_of_all_classes_is_its_ranks_own_error(labels):
    found = concluded([descriptor(3), descriptor(3), descriptor(3, labels)])
    # the rank goes on, to the error that names the row
    assert found[2].num_classes == 9
    for error in found[:2]:
        assert type(error) is LabelError
        assert "rank 2 of the group was given the label" in str(error)


def test_long_texts_are_cut_and_still_compared():
    long = {f"option {at}": "x" * 50 for at in range(40)}
    assert descriptor(**long).encoded().size == SIZE
    assert not isinstance(concluded([descriptor(**long)] * 3)[0], Exception)
    other = long | {"option 39": "y"}
    for error in concluded([descriptor(**long), descriptor(**other)]):
        assert type(error) is OptionError
        assert "on rank 1" in str(error)
    message = "é" * 2000
    assert str(concluded([OptionError(message), descriptor()])[1]).count("é") > 400


def test_the_text_of_an_argument_is_that_of_its_value():
    assert told(1.0) == told(1) == told(np.float32(1)) == "1"
    assert told(0.1) == "0.1"
    assert told(None) == "None"
    assert told(np.arange(3, dtype="i2")) == told(np.arange(6)[::2] // 2)
    assert told(np.arange(3)) != told(np.arange(3)[::-1])
    assert told(np.zeros((2, 3))) != told(np.zeros((3, 2)))
    assert told(("lse", "argmax")) == "('lse', 'argmax')"


def test_the_range_of_labels_is_of_those_that_count():
    assert label_range(np.array([3, -100, 1]), -100) == (1, 3)
    assert label_range(np.array([3, -100, 1]), None) == (-100, 3)
    assert label_range(np.array([-100]), -100) is None
    assert label_range(np.array([2**64 - 1], "u8"), None) == (2**63 - 1,) * 2


OF_A_SET = """
import sys
import numpy as np
from fastxent.options import Options
from fastxent.sharding.engine import Arguments, agreed, names_of

class Alone:
    rank = 0

    def gather_bytes(self, mine):
        sys.stdout.buffer.write(mine.tobytes())
        return mine[None]

names = names_of({"lse", "argmax", "entropy"})
print(names, file=sys.stderr)
given = Arguments(np.zeros((2, 3)), np.array([0, 2]), Options(aux=names))
agreed(lambda: given, "reduce", Alone())
"""


def test_the_names_of_a_set_are_told_alike_by_every_process():
    """Each process has an order of its own for the strings of a set."""
    root = str(Path(__file__).parent.parent.parent)
    found = [
        subprocess.run(
            [sys.executable, "-c", OF_A_SET],
            env=os.environ | {"PYTHONPATH": root, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            timeout=60,
        )
        for seed in "01"
    ]
    assert found[0].stderr != found[1].stderr
    assert found[0].stdout == found[1].stdout
